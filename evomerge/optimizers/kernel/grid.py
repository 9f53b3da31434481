"""A grid over measures: the best member of each cell (MAP-Elites).

Paper: Mouret & Clune, "Illuminating search spaces by mapping elites",
    https://arxiv.org/abs/1504.04909.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from evomerge.optimizers import Measure

Cell = tuple[int, ...]
Member = TypeVar("Member")


@dataclass(frozen=True)
class Open:
    """An axis whose ends are not known beforehand: ``cells`` from the lowest to the highest member."""

    cells: int

    def over(self, values: Sequence[float]) -> Measure:
        """The axis over ``values``, at least one."""
        low, high = min(values), max(values)
        return Measure("", low, high if high > low else low + 1.0, self.cells)


class Grid(Generic[Member]):
    """The best member of each cell; among equals the earlier.

    Where a new member lies beyond the ends of an open axis, that axis is laid out anew over the members
    there are; what had lost its cell before stays out.

    Args:
        axes: the measures; what lies beyond an end of one counts to the last cell there.
        place: where a member lies, ``[axes]``.
        merit: sort key, the smallest best.
    """

    def __init__(
        self,
        axes: Sequence[Measure | Open],
        place: Callable[[Member], Sequence[float]],
        merit: Callable[[Member], Any],
    ) -> None:
        self._axes, self._place, self._merit = tuple(axes), place, merit
        self._ends: tuple[Measure, ...] = ()
        self._cells: dict[Cell, Member] = {}

    def add(self, member: Member) -> bool:
        """True if ``member`` takes a cell, a free one or one of a worse member."""
        if self._beyond(member):
            members = [*self._cells.values(), member]
            self._ends, self._cells = self._over(members), {}
            for each in members:
                self._settle(each)
            return any(each is member for each in self._cells.values())
        return self._settle(member)

    def members(self) -> list[Member]:
        """Best first."""
        return sorted(self._cells.values(), key=self._merit)

    def _settle(self, member: Member) -> bool:
        pairs = zip(self._ends, self._place(member), strict=True)
        cell = tuple(measure.cell(value) for measure, value in pairs)
        before = self._cells.get(cell)
        if before is not None and self._merit(member) >= self._merit(before):
            return False
        self._cells[cell] = member
        return True

    def _beyond(self, member: Member) -> bool:
        """True if the ends have to move for ``member``."""
        if not self._cells:
            return True
        triples = zip(self._axes, self._ends, self._place(member), strict=True)
        return any(
            isinstance(axis, Open) and not ends.low <= value <= ends.high
            for axis, ends, value in triples
        )

    def _over(self, members: Sequence[Member]) -> tuple[Measure, ...]:
        rows = [self._place(member) for member in members]
        return tuple(
            axis.over([row[at] for row in rows]) if isinstance(axis, Open) else axis
            for at, axis in enumerate(self._axes)
        )
