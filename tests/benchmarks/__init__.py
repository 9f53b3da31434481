"""Benchmarks: scripts that print tables. They assert nothing about time; ``merge`` is the first."""
