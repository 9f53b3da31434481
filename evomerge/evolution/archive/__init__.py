"""Archives: what is remembered of evaluations. Each is a fold, rebuilt from the journal.

A file holds one archive: ``best`` (the few with the highest score), ``front`` (those that no other
dominates).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from evomerge.suite.objectives import Score, Values


@dataclass(frozen=True)
class Elite:
    """A candidate scored in a batch.

    Attributes:
        candidate: its id.
        batch: that it was scored in.
        score: combined.
        values: of all objectives, in the metric's own direction.
    """

    candidate: int
    batch: int
    score: Score
    values: Values


class Added(StrEnum):
    """What adding an elite did."""

    REJECTED = "rejected"  # the archive is as before
    NEW = "new"  # it took a place of its own
    IMPROVED = "improved"  # it took the place of others


class Archive(Protocol):
    """Remembers some of what was added; adding is a fold, in the order of the journal."""

    def add(self, elite: Elite) -> Added:
        """Take ``elite`` in, or not."""
        ...

    def elites(self) -> tuple[Elite, ...]:
        """What is remembered, best first by score."""
        ...


def merit(elite: Elite) -> tuple[bool, float, int]:
    """Sort key, the smallest first: feasible ones by score, then by violation, then the earlier."""
    feasible, value = elite.score.rank
    return (not feasible, -value, elite.candidate)
