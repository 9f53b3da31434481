"""SuperMerge: weights bounded by tanh, descended on by slopes; of a large pool in teams first, then across them.

    w = centre + half tanh(u)       of each source in each place, u by Adam
    w = s w_team                    across teams, s = 1 + tanh(u): a merge of the teams' merges

While a team is descended on, no other source is merged; across teams what each found keeps its proportions. So
no step has more unknowns a place than ``team``, or than there are teams. A pool of one team has no second level.

Paper: Yang, Zhang & Sathe 2024, "SuperMerge", https://arxiv.org/abs/2412.10416.
Deviations: tanh spans the range of the space, which need not be -1 to 1; the mean of the second half of a
    level's points is kept; merges of merges are written as the one recipe that they are, for task vectors add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import InputError
from evomerge.optimizers import Problem
from evomerge.optimizers.frank_wolfe import NO_MIXTURES
from evomerge.optimizers.kernel.descent import B1, B2, FALL, TINY
from evomerge.optimizers.kernel.walk import Walk
from evomerge.params import Genome, Integer, Parameter, Real, Shared, Value

Array = NDArray[np.float64]
EDGE = 0.98  # of tanh: at the bounds themselves nothing moves


class SuperMerge(Walk):
    """See the module's text. Axes that weigh no source stay where the best known recipe has them."""

    name: ClassVar[str] = "supermerge"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "rate",
            Shared(Real(0.01, 0.5, default=0.15, valid=(1e-4, 2))),
            "the first step of u; it falls to a tenth over the steps of a level",
        ),
        Parameter(
            "steps", Shared(Integer(1, 10_000, default=16)), "steps of each team, and across"
        ),
        Parameter("team", Shared(Integer(1, 1000, default=4)), "sources of a team, in their order"),
    )

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        if not problem.mixtures:
            raise InputError(NO_MIXTURES)
        sources = list(dict.fromkeys(name for m in problem.mixtures for name in m.sources))
        size = cast(int, self.options["team"])
        self._teams = [sources[n : n + size] for n in range(0, len(sources), size)]
        self._level = 0  # of so many teams; then across
        self._genome = np.full(len(self.dims), 0.5)
        # one entry an axis of a weight: its range, its team, and what it is multiplied by
        axes = [
            (axis, *span, self._team_of(source))
            for mixture in problem.mixtures
            for axis, source, span in zip(
                mixture.axes, mixture.sources, mixture.ranges, strict=True
            )
        ]
        self._axes = np.array([axis for axis, *_ in axes], np.int64)
        self._low, self._high = (np.array([each[n] for each in axes]) for n in (1, 2))
        self._of_team = np.array([team for *_, team in axes], np.int64)
        # across teams: an unknown for each team in each place
        places = [n for n, mixture in enumerate(problem.mixtures) for _ in mixture.axes]
        keys = list(zip(places, self._of_team.tolist(), strict=True))
        numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        self._factor_of = np.array([numbers[key] for key in keys], np.int64)
        self._known = np.zeros(len(axes))  # weights of the best known recipe
        self._found = np.zeros(len(axes))  # weights that the levels so far have found
        self._descent = _Adam(np.zeros(1), 1, 0.1)

    def _team_of(self, source: str) -> int:
        return next(n for n, team in enumerate(self._teams) if source in team)

    @property
    def _across(self) -> bool:
        return self._level == len(self._teams)

    def begin(self, genome: Genome) -> None:
        self._genome = np.array(genome)
        self._known = self._low + self._genome[self._axes] * (self._high - self._low)
        self._start()

    def _start(self) -> None:
        """The unknowns of a level, where it begins."""
        if self._across:
            first = 1 / math.sqrt(
                len(self._teams)
            )  # of equal and unrelated ones together as long as one
            u = np.full(self._factor_of.max() + 1, np.arctanh(first - 1))
        else:
            own = self._of_team == self._level
            centre, half = (self._low + self._high) / 2, (self._high - self._low) / 2
            u = np.arctanh(np.clip((self._known - centre) / half, -EDGE, EDGE))[own]
        self._descent = _Adam(
            u, cast(int, self.options["steps"]), cast(float, self.options["rate"])
        )

    def _weights(self, u: Array) -> tuple[Array, Array]:
        """The weights that unknowns stand for, and the derivative of each by its own unknown."""
        if self._across:
            factors, rates = 1 + np.tanh(u), 1 - np.tanh(u) ** 2
            return factors[self._factor_of] * self._found, rates[self._factor_of] * self._found
        own = self._of_team == self._level
        half = ((self._high - self._low) / 2)[own]
        weights, rates = np.zeros(len(own)), np.zeros(len(own))
        weights[own] = ((self._low + self._high) / 2)[own] + half * np.tanh(u)
        rates[own] = half * (1 - np.tanh(u) ** 2)
        return weights, rates

    def move(self, slope: Sequence[float]) -> None:
        by_weight = np.array(slope)[self._axes] / (self._high - self._low)
        product = by_weight * self._weights(self._descent.point)[1]
        if self._across:
            self._descent.move(np.bincount(self._factor_of, product).astype(np.float64))
        else:
            self._descent.move(product[self._of_team == self._level])
        if not self._across and self._descent.done:
            self._next()

    def _next(self) -> None:
        weights, _ = self._weights(self._descent.mean)
        own = self._of_team == self._level
        self._found[own] = weights[own]
        if len(self._teams) == 1:
            return  # one team: it goes on
        self._level += 1
        self._start()

    def back(self) -> None:
        self._descent.back()

    @property
    def point(self) -> Sequence[float]:
        return self._genes(self._descent.point)

    @property
    def believed(self) -> Sequence[float]:
        """The mean of the second half of the last level's points; before that level, what is known."""
        if self._across or len(self._teams) == 1:
            return self._genes(self._descent.mean)
        found: list[float] = self._genome.tolist()
        return found

    def _genes(self, u: Array) -> list[float]:
        weights, _ = self._weights(u)
        genome = self._genome.copy()
        genes = (weights - self._low) / (self._high - self._low)
        genome[self._axes] = np.clip(genes, 0.0, 1.0)
        found: list[float] = genome.tolist()
        return found


class _Adam:
    """Adam on unknowns without bounds; see ``kernel.descent``."""

    def __init__(self, start: Array, steps: int, rate: float) -> None:
        self._start, self._steps, self._rate = start, steps, rate
        self._m, self._v = np.zeros_like(start), np.zeros_like(start)
        self._points: list[Array] = []

    @property
    def point(self) -> Array:
        return self._points[-1] if self._points else self._start

    @property
    def done(self) -> bool:
        return len(self._points) >= self._steps

    @property
    def mean(self) -> Array:
        found: Array = np.mean(self._points[len(self._points) // 2 :] or [self._start], axis=0)
        return found

    def move(self, slope: Array) -> None:
        count = len(self._points) + 1
        self._m = B1 * self._m + (1 - B1) * slope
        self._v = B2 * self._v + (1 - B2) * slope**2
        m, v = self._m / (1 - B1**count), self._v / (1 - B2**count)
        rate = self._rate * FALL ** min(1.0, (count - 1) / max(1, self._steps - 1))
        self._points.append(self.point + rate * m / (np.sqrt(v) + TINY))

    def back(self) -> None:
        before = self._points[-2] if len(self._points) > 1 else self._start
        self._points.append((self.point + before) / 2)
