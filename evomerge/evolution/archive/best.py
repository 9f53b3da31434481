"""The few with the highest score."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from evomerge.evolution.archive import Added, Elite, merit


class Best:
    """The ``count`` best elites by score, feasible ones first; among equals the earlier candidate.

    Takes O(log count) comparisons an elite.
    """

    def __init__(self, count: int = 1) -> None:
        self._count = count
        self._elites: list[Elite] = []

    def add(self, elite: Elite) -> Added:
        if len(self._elites) == self._count and merit(elite) >= merit(self._elites[-1]):
            return Added.REJECTED
        bisect.insort(self._elites, elite, key=merit)
        if len(self._elites) > self._count:
            self._elites.pop()
            return Added.IMPROVED
        return Added.NEW

    def elites(self) -> tuple[Elite, ...]:
        return tuple(self._elites)


def best(elites: Iterable[Elite], count: int = 1) -> list[Elite]:
    """The ``count`` best of ``elites``."""
    return sorted(elites, key=merit)[:count]
