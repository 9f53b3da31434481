"""Frank-Wolfe over the weights of a pool: in each place of a space, step towards the one source that helps most.

    d <- (1 - r) d + r slope,   r = 4 / (t + 8)^(2/3)
    v = total e_k for k = argmax_k d_k, and 0 where d_k is less than half of max |d|
    w <- (1 - g) w + g v,       g = 2 / (t + 2)

over the weights w >= 0 of each place that sum to ``total`` at most. A source that helps nowhere is hardly ever
stepped to, and what weight it started with dies away; so many irrelevant ones do no harm.

Paper: Chen et al. 2025, "FW-Merging", https://arxiv.org/abs/2503.12649; Frank & Wolfe 1956; Mokhtari et al. 2018,
    "Stochastic Conditional Gradient Methods", https://arxiv.org/abs/1804.09554 (d and r).
Deviations: t counts from 1, so that the best known recipe, where it starts, is not left at once; slopes of
    minibatches are averaged, and a source that hardly helps is left alone where others do too much: a whole step
    to it would cost more than its slope promises; what is minimised is the product of slope and weight itself, not the cosine; no
    inner merge method, but whatever the space merges by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import InputError
from evomerge.optimizers import Problem
from evomerge.optimizers.kernel.walk import Walk
from evomerge.params import Genome, Mixture, Parameter, Real, Shared, Value

Array = NDArray[np.float64]


LEAST = 0.5  # of the largest slope of a place, in size: what a source must have to be stepped to


class FrankWolfe(Walk):
    """See the module's text. Axes that weigh no source stay where the best known recipe has them."""

    name: ClassVar[str] = "frank_wolfe"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "total",
            Shared(Real(0.1, 4, default=None, valid=(1e-3, 1000), optional=True)),
            "what the weights of a place sum to, at most; default: what those of the best known recipe do",
        ),
    )

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        if not problem.mixtures:
            raise InputError(NO_MIXTURES)
        self._steps = 0
        self._slope = np.zeros(len(self.dims))
        self._point = self._before = np.full(len(self.dims), 0.5)
        self._totals: list[float] = []

    def begin(self, genome: Genome) -> None:
        self._point = self._before = np.array(genome)
        given = cast("float | None", self.options["total"])
        self._totals = []
        for mixture in self.problem.mixtures:
            weights = np.maximum(mixture.weights(genome), 0.0)
            self._totals.append(given or float(weights.sum()) or 1.0)

    def move(self, slope: Sequence[float]) -> None:
        self._steps += 1
        rho = min(1.0, 4 / (self._steps + 8) ** (2 / 3)) if self._steps > 1 else 1.0
        self._slope = (1 - rho) * self._slope + rho * np.array(slope)
        gamma = 2 / (self._steps + 2)
        self._before, self._point = self._point, self._point.copy()
        for mixture, total in zip(self.problem.mixtures, self._totals, strict=True):
            vertex = _vertex(mixture, self._slope, total)
            weights = np.array(mixture.weights(self._point.tolist()))
            stepped = (1 - gamma) * weights + gamma * vertex
            self._point[list(mixture.axes)] = mixture.genes(stepped.tolist())

    def back(self) -> None:
        self._point = (self._point + self._before) / 2

    @property
    def point(self) -> Sequence[float]:
        found: list[float] = self._point.tolist()
        return found


def _vertex(mixture: Mixture, slope: Array, total: float) -> Array:
    """The corner of the simplex that ``slope`` points to."""
    widths = [high - low for low, high in mixture.ranges]
    by_weight = slope[list(mixture.axes)] / np.array(widths)
    found = np.zeros(len(widths))
    best = int(by_weight.argmax())
    if by_weight[best] > LEAST * np.abs(by_weight).max():
        found[best] = total
    return found


NO_MIXTURES = (
    "this space has no weights of sources that stand for themselves: it takes a method with a weight a source, "
    "searched on a linear scale; shares of `weights: simplex` depend on each other. Choose another optimizer, or "
    "leave the simplex out"
)
