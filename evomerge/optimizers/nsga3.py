"""NSGA-III: a population that spreads along reference directions, for three objectives and more.

Paper: Deb & Jain, "An Evolutionary Many-Objective Optimization Algorithm Using
    Reference-Point-Based Nondominated Sorting Approach", IEEE Transactions on Evolutionary Computation 18, 2014.
Deviations: ideal and extreme points are those of the points at hand, not of all that ever were: a lucky
    point would bend the scale for good. One child a mating, as in ``nsga2``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.optimizers import Told
from evomerge.optimizers.nsga2 import NSGA2
from evomerge.optimizers.pareto.fronts import Points, fronts, points_of

AXIS = 1e6  # weight of the other objectives where the extreme of one is sought


class NSGA3(NSGA2):
    """As ``NSGA2``, but the last front that enters is thinned by reference directions.

    Of feasible parents chance decides: the directions are what keeps the spread.
    """

    name: ClassVar[str] = "nsga3"

    def _survivors(self, feasible: Sequence[Told], batch: int) -> list[Told]:
        if not feasible:
            return []
        points = points_of(feasible)
        ranked = fronts(points)
        order: list[int] = []
        while ranked and len(order) + len(ranked[0]) <= self.population:
            order += ranked.pop(0)
        wanted = self.population - len(order)
        if ranked and wanted:
            front = fronts(points)[0]
            last = ranked[0]
            losses = scaled(-points[[*order, *last]], -points[front])
            niches, distances = nearest(losses, directions(points.shape[1], self.population))
            taken = len(order)
            counts = np.bincount(niches[:taken], minlength=int(niches.max()) + 1)
            generator = seeds.generator(self.seed, "niches", batch)
            chosen = fill(niches[taken:], distances[taken:], counts, wanted, generator)
            order += [last[at] for at in chosen]
        return [feasible[at] for at in order]

    def _winner(self, generator: np.random.Generator) -> int:
        pair = sorted(generator.choice(len(self._members), 2, replace=False).tolist())
        violated = [self._members[at].violation for at in pair]
        return int(pair[0] if any(violated) else pair[generator.integers(2)])


def directions(objectives: int, most: int) -> NDArray[np.float64]:
    """``[directions, objectives]``, rows of sum 1: the finest grid of Das and Dennis with at most ``most``.

    With p steps there are C(p + m - 1, m - 1); as many as there are objectives at least.
    """
    steps = 1
    while objectives > 1 and math.comb(steps + objectives, objectives - 1) <= most:
        steps += 1
    bars = itertools.combinations(range(steps + objectives - 1), objectives - 1)
    ends = np.array([(-1, *each, steps + objectives - 1) for each in bars])
    return (np.diff(ends, axis=1) - 1) / steps


def scaled(losses: Points, front: Points) -> Points:
    """``losses`` from 0 at the ideal point to 1 at the intercepts of the plane through the extremes.

    Both are minimised; ``front`` is the first one. Where the extremes span no plane, or one that meets
    an axis behind the ideal point, the worst of the front stands in.
    """
    ideal = losses.min(axis=0)
    away = front - ideal
    weights = np.where(np.eye(front.shape[1]) > 0, 1, AXIS)
    extremes = away[np.argmin((away * weights[:, None]).max(axis=2), axis=1)]
    span = away.max(axis=0)
    if np.linalg.matrix_rank(extremes) == len(extremes):
        plane = np.linalg.solve(extremes, np.ones(len(extremes)))
        if (plane > 1e-6).all():
            span = np.minimum(1 / plane, (losses - ideal).max(axis=0))
    return np.asarray((losses - ideal) / np.where(span > 1e-12, span, 1))


def nearest(
    losses: Points, rays: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The direction nearest to each point, ``[points]``, and the distance from it."""
    units = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    along = losses @ units.T
    away = np.linalg.norm(losses[:, None] - along[:, :, None] * units, axis=2)
    niches = np.argmin(away, axis=1)
    return niches, away[np.arange(len(losses)), niches]


def fill(
    niches: NDArray[np.intp],
    distances: NDArray[np.float64],
    counts: NDArray[np.intp],
    wanted: int,
    generator: np.random.Generator,
) -> list[int]:
    """``wanted`` points of a front: always one of the emptiest niche that has any left.

    The nearest to a direction that has nobody yet, else anyone; ties by lot.

    Args:
        niches, distances: of the front's points, as ``nearest`` says.
        counts: who is in each niche already.
    """
    counts, left = counts.copy(), generator.permutation(len(niches)).tolist()
    chosen: list[int] = []
    while len(chosen) < wanted:
        fewest = min(counts[niches[at]] for at in left)
        rank = {niche: lot for lot, niche in enumerate(generator.permutation(len(counts)))}
        open_niches = [niches[at] for at in left if counts[niches[at]] == fewest]
        niche = min(open_niches, key=rank.__getitem__)
        inside = [at for at in left if niches[at] == niche]
        one = min(inside, key=distances.__getitem__) if fewest == 0 else inside[0]
        left.remove(one)
        chosen.append(one)
        counts[niche] += 1
    return chosen
