"""The hypervolume of points: what they dominate above a reference point, counted once. Exact.

    hv(S) = volume of { x : r <= x <= p for some p in S }

    hv(p_1, ..., p_n) = sum_i ( vol(p_i) - hv(min(p_i, p_j), j > i) )

where vol is of the box from r to a point, and points of the inner sum that others dominate are left out.

Papers: Zitzler & Thiele, "Multiobjective Evolutionary Algorithms", IEEE TEC 3(4), 1999 (the measure);
    While, Bradstreet & Barone, "A Fast Way of Calculating Exact Hypervolumes", IEEE TEC 16(1), 2012.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, ...]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Of ``points`` ``[n, objectives]``, maximised, above ``reference`` ``[objectives]``; 0 of none.

    A point that is nowhere above the reference in some objective dominates nothing. The time grows with
    the number of points to the power of the objectives at worst; fronts of a report are small.
    """
    above = [tuple(v - r for v, r in zip(p, reference, strict=True)) for p in points]
    return _volume([p for p in above if all(v > 0 for v in p)])


def _volume(points: Sequence[Point]) -> float:
    """Above zero, of points that are above it."""
    # the worst in the last objective first: what is left is then cut low, and mostly dominated
    ordered = sorted(_front(points), key=lambda p: p[-1])
    total = 0.0
    for at, point in enumerate(ordered):
        left = [tuple(map(min, point, other)) for other in ordered[at + 1 :]]
        total += math.prod(point) - (_volume(left) if left else 0.0)
    return total


def _front(points: Sequence[Point]) -> list[Point]:
    """Distinct points that no other dominates."""
    distinct = set(points)
    return [
        p
        for p in distinct
        if not any(q != p and all(a >= b for a, b in zip(q, p, strict=True)) for q in distinct)
    ]
