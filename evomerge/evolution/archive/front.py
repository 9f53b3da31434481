"""The front: the elites that no other dominates, and those of them that stand for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from evomerge.evolution.archive import Added, Elite, merit
from evomerge.suite.objectives import Objective

Point = tuple[float, ...]  # values of the objectives that count, turned so that more is better


class Front:
    """The feasible elites that no other beats or equals in every objective while beating it in one.

    Args:
        objectives: those that count (``objectives.counting``).
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = tuple(objectives)
        self._members: list[tuple[Elite, Point]] = []

    def add(self, elite: Elite) -> Added:
        point = point_of(elite, self._objectives)
        if not elite.score.feasible or any(dominates(p, point) for _, p in self._members):
            return Added.REJECTED
        kept = [(e, p) for e, p in self._members if not dominates(point, p)]
        status = Added.NEW if len(kept) == len(self._members) else Added.IMPROVED
        self._members = [*kept, (elite, point)]
        return status

    def elites(self) -> tuple[Elite, ...]:
        return tuple(sorted((elite for elite, _ in self._members), key=merit))


def point_of(elite: Elite, objectives: Sequence[Objective]) -> Point:
    """Where an elite lies, ``[objectives]``, maximised."""
    return tuple(o.sign * elite.values[o.name] for o in objectives)


def dominates(ours: Point, theirs: Point) -> bool:
    """True if ours is nowhere worse and somewhere better."""
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def front(elites: Iterable[Elite], objectives: Sequence[Objective]) -> list[Elite]:
    """The front of ``elites``, in their order: what a ``Front`` holds after all of them, sooner.

    Whoever dominates comes before the dominated in falling lexicographic order, and so does a member of
    the front that does.
    """
    feasible = [elite for elite in elites if elite.score.feasible]
    points = np.array([point_of(elite, objectives) for elite in feasible])
    if not len(objectives):
        return feasible
    kept, members, count = list[int](), np.empty((64, len(objectives))), 0
    for at in np.lexsort(points.T[::-1])[::-1] if feasible else ():
        above = (members[:count] >= points[at]).all(1)
        if above.any() and (members[:count][above] != points[at]).any():
            continue
        if count == len(members):
            members = np.concatenate([members, np.empty_like(members)])
        members[count] = points[at]
        count += 1
        kept.append(int(at))
    return [feasible[at] for at in sorted(kept)]


def knees(elites: Sequence[Elite], objectives: Sequence[Objective], count: int = 3) -> list[Elite]:
    """The knee of the front, then its best in each objective; at most ``count``.

    The knee has the largest sum of objectives, each scaled to 0..1 over the front.
    """
    members = front(elites, objectives)
    if not members:
        return []
    rows = scaled(members, objectives)
    sums = [sum(row) for row in rows]
    tops = [
        max(range(len(members)), key=lambda at: (column[at], sums[at]))
        for column in (sums, *zip(*rows, strict=True))
    ]
    return [members[at] for at in list(dict.fromkeys(tops))[:count]]


def spread(elites: Sequence[Elite], objectives: Sequence[Objective], count: int) -> list[Elite]:
    """At most ``count`` members that stand for the whole front: its knees, then who lies farthest off.

    Farthest by the distance to the nearest that was taken, each objective scaled to 0..1.
    """
    members = front(elites, objectives)
    rows = scaled(members, objectives)
    taken = [members.index(elite) for elite in knees(elites, objectives, count)]
    while len(taken) < min(count, len(members)):
        gaps = [
            min(sum((a - b) ** 2 for a, b in zip(row, rows[at], strict=True)) for at in taken)
            for row in rows
        ]
        taken.append(max((n for n in range(len(members)) if n not in taken), key=gaps.__getitem__))
    return [members[at] for at in taken]


def scaled(members: Sequence[Elite], objectives: Sequence[Objective]) -> list[list[float]]:
    """``[members, objectives]``: each objective from 0 to 1 over the members."""
    points = [point_of(elite, objectives) for elite in members]
    spans = [(min(column), max(column)) for column in zip(*points, strict=True)]
    return [
        [
            (v - low) / (high - low) if high > low else 0.0
            for v, (low, high) in zip(point, spans, strict=True)
        ]
        for point in points
    ]
