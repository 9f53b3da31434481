"""A grid over measures: the best elite of each cell (MAP-Elites).

Paper: Mouret & Clune, "Illuminating search spaces by mapping elites",
    https://arxiv.org/abs/1504.04909.
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.evolution.archive import Added, Elite, merit
from evomerge.optimizers import Measure

Cell = tuple[int, ...]


class Grid:
    """The best elite of each cell; ``Elite.measures`` says which cell it lies in.

    Args:
        measures: the axes; what lies beyond an end counts to the last cell there.
    """

    def __init__(self, measures: Sequence[Measure]) -> None:
        self._measures = tuple(measures)
        self._cells: dict[Cell, Elite] = {}

    def cell(self, elite: Elite) -> Cell:
        """``[measures]``: the number of the elite's cell on each axis."""
        return tuple(m.cell(value) for m, value in zip(self._measures, elite.measures, strict=True))

    def add(self, elite: Elite) -> Added:
        cell = self.cell(elite)
        before = self._cells.get(cell)
        if before is not None and merit(elite) >= merit(before):
            return Added.REJECTED
        self._cells[cell] = elite
        return Added.NEW if before is None else Added.IMPROVED

    def elites(self) -> tuple[Elite, ...]:
        return tuple(sorted(self._cells.values(), key=merit))
