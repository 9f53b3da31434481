"""Bytes that are under way at once, bounded: however many threads there are, memory holds what it was promised to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InFlight:
    """Lets threads work as long as what they take together is no more than ``limit`` bytes.

    In the order in which they come; one that takes more than all of it works alone. A limit of None lets all of them.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit, self._used = limit, 0
        self._turn, self._freed = threading.Lock(), threading.Condition()

    @contextmanager
    def hold(self, size: int, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Take ``size`` bytes as long as the block lasts; ``waiting`` is called before it has to wait for them."""
        if self._limit is None:
            yield
            return
        with self._turn, self._freed:  # whoever waits has the turn: no smaller one slips past
            if not self._fits(size):
                waiting()
                self._freed.wait_for(lambda: self._fits(size))
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify()

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= (self._limit or 0)
