"""A search that somebody stops."""

from __future__ import annotations

from evomerge.record.events import EvaluationLine
from evomerge.run.loop import Listener


class Stopper(Listener):
    """Stops a search after so many evaluations, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self._left = after

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
