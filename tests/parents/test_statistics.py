"""The built-in statistics hold to their contract."""

from __future__ import annotations

from evomerge.testing.statistics import StatisticContract


class TestFisher(StatisticContract):
    name = "fisher"
