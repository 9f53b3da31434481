"""Who dominates whom, how crowded a front is, and who stands for it.

Objectives are maximised. Papers: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm:
NSGA-II", IEEE Transactions on Evolutionary Computation 6, 2002 (fronts, crowding, constraints).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers import Told

Points = NDArray[np.float64]  # [points, objectives]


def points_of(told: Sequence[Told]) -> Points:
    """``[told, objectives]``; the score alone where no values were told. None of them may have failed."""
    return np.array([each.values or (each.score,) for each in told], dtype=np.float64)


def fronts(points: Points) -> list[list[int]]:
    """Indices front by front: who is not dominated, who is not once those are gone, and so on.

    A point dominates another that it equals or beats in every objective, and beats in one.
    """
    above = np.asarray((points[:, None] >= points[None]).all(axis=2))
    dominates = above & ~above.T
    left, found = np.arange(len(points)), []
    while len(left):
        beaten = dominates[np.ix_(left, left)].any(axis=0)
        found.append(left[~beaten].tolist())
        left = left[beaten]
    return found


def crowding(points: Points) -> NDArray[np.float64]:
    """``[points]``: per objective the gap between both neighbours as a part of the range, summed.

    Infinite at the ends of an objective that varies.
    """
    distances = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        if (span := ordered[-1] - ordered[0]) > 0:
            distances[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
            distances[order[[0, -1]]] = np.inf
    return distances


def spread(points: Points, first: int, count: int) -> list[int]:
    """At most ``count`` indices: ``first``, then whoever lies farthest from the nearest that was taken.

    Each objective is scaled to its range.
    """
    span = np.ptp(points, axis=0)
    scaled = points / np.where(span > 0, span, 1)
    taken = [first]
    while len(taken) < min(count, len(points)):
        gaps = np.linalg.norm(scaled[:, None] - scaled[taken], axis=2).min(axis=1)
        gaps[taken] = -1
        taken.append(int(np.argmax(gaps)))
    return taken[:count]
