"""Contracts that tests and plugins check themselves against."""
