"""Runs: one search in one folder. Starting and resuming are the same loop."""
