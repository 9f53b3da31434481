"""Hypervolume: how much of the space of objectives a set of points dominates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Point = tuple[float, ...]


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that ``points`` dominate above ``reference``, exactly.

        HV(S) = volume of the union over p in S of [reference, p]

    By the exclusive volumes of the points, one after the other: what a point dominates alone is its box
    less what the rest, cut down to that box, dominates of it. Two objectives are swept. Fit for the fronts
    of a search: a hundred points of five objectives.

    Args:
        points: ``[points, objectives]``, maximised; those that do not exceed the reference everywhere
            dominate nothing.
        reference: ``[objectives]``, at least one: what counts as nothing gained.

    Returns:
        The volume, in the product of the objectives' units.

    Raises:
        ValueError: a point has another number of objectives than the reference.

    Paper: While, Bradstreet & Barone, "A fast way of calculating exact hypervolumes", IEEE TEVC 2012 (WFG).
    Deviations: no slicing of the last objective.
    """
    above = []
    for point in points:
        gained = tuple(value - low for value, low in zip(point, reference, strict=True))
        if all(value > 0 for value in gained):
            above.append(gained)
    return _volume(_undominated(above))


def _volume(front: list[Point]) -> float:
    """Of points above the origin, none of which dominates another."""
    if not front:
        return 0.0
    if len(front[0]) == 1:
        return front[0][0]
    front = sorted(front, reverse=True)  # the first objective falls: later boxes shrink fast
    if len(front[0]) == 2:
        total = height = 0.0
        for width, reach in front:
            total += width * (reach - height)
            height = reach
        return total
    return sum(_exclusive(point, front[at + 1 :]) for at, point in enumerate(front))


def _exclusive(point: Point, others: list[Point]) -> float:
    """What ``point`` dominates and ``others`` do not."""
    box = 1.0
    for side in point:
        box *= side
    inside = [tuple(map(min, point, other)) for other in others]
    return box - _volume(_undominated(inside))


def _undominated(points: Iterable[Point]) -> list[Point]:
    """The points that no other dominates, each once."""
    kept: list[Point] = []
    for point in sorted(set(points), reverse=True):  # nobody is dominated by who comes later
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) for other in kept):
            kept.append(point)
    return kept
