"""How long a worker may tell nothing of its job: learned from the jobs before.

An honest job must never be taken for a hung one, so everything here is generous: a job may be of another kind than
all before it (more items, slopes, another dtype, a slower method), and one that tells progress is never doubted.
"""

from __future__ import annotations

import math

FLOOR = 3600.0  # seconds; no silence below is doubted
TIMES = 20.0  # what the longest job before took
UNKNOWN = (
    6 * 3600.0
)  # seconds; nothing was learned yet, or a worker is built, which may download models


class Silence:
    """The longest silence that is still honest.

    Args:
        given: seconds, by who knows better; infinity: any; None: it is learned.
    """

    def __init__(self, given: float | None = None) -> None:
        self._given = given
        self._longest = 0.0  # seconds that a job took
        self._slowest = 0.0  # seconds an item, of any job

    def learn(self, seconds: float, items: int) -> None:
        """A job of so many items, 0 if it did not tell, was answered after ``seconds``."""
        self._longest = max(self._longest, seconds)
        if items:
            self._slowest = max(self._slowest, seconds / items)

    def limit(self, items: int) -> float:
        """Seconds that a job of so many items may tell nothing."""
        if self._given is not None:
            return self._given
        if not self._longest:
            return UNKNOWN
        return max(FLOOR, TIMES * max(self._longest, items * self._slowest))

    def stated(self, items: int) -> float | None:
        """The same, for people; None: there is none."""
        limit = self.limit(items)
        return None if math.isinf(limit) else limit

    @property
    def building(self) -> float:
        """Seconds that a worker may take until it is there."""
        return max(UNKNOWN, self._given or 0.0)
