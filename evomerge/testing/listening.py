"""A search that something befalls in its midst."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.record.events import EvaluationLine
from evomerge.run.loop import Listener


class After(Listener):
    """Does something after so many evaluations."""

    def __init__(self, count: int, do: Callable[[], object]) -> None:
        self._left, self._do = count, do

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        self._left -= 1
        if not self._left:
            self._do()
