"""CMA-ES, by pycma; a categorical axis is searched beside it, as in CatCMA.

Real and integer axes share one normal distribution, which pycma adapts; each categorical axis has a
distribution of its own. An integer axis keeps a standard deviation that still reaches the
neighbouring cells.

Papers: Hansen, "The CMA Evolution Strategy: A Tutorial", https://arxiv.org/abs/1604.00772;
    Hansen, "Injecting External Solutions Into CMA-ES", https://arxiv.org/abs/1110.4181;
    Marty et al., "LB+IC-CMA-ES", PPSN 2024 (the lower bound for integers);
    Hamano et al., "CatCMA", https://arxiv.org/abs/2405.09962 (the categorical axes).
Deviations: no integer centering; the categorical learning rate is fixed, not adapted.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical, cell, centre, rank
from evomerge.params import Dim, Genome, Integer, Parameter, Real, Shared, Value

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # it would like matplotlib
    import cma

# A recipe has four decimals; a narrower distribution would propose the same recipe again.
SMALLEST_STD = 1e-4
LARGEST_STD = 1 / 3
UNKNOWN_STD = 0.25  # over the whole space, where nothing says where to begin
SMALLEST_INTEGER_STD = 0.2  # in cells: from a centre, 1 % of the draws leave the cell
# Step on a categorical distribution. With the default populations some 5 to 8 elites count, so
# chance alone fixes an option only after mu_eff / rate^2, about 70 batches; selection needs 1/rate.
CATEGORICAL_RATE = 0.3
DRAWS = 16  # that are remembered: more under way are drawn twice


class _Normal:
    """The normal numbers that pycma draws: from a generator that is set before each use."""

    generator: np.random.Generator

    def __call__(self, *shape: int) -> NDArray[np.float64]:
        return self.generator.standard_normal(shape)


@dataclass
class _Distribution:
    """What genomes are drawn from. One that was drawn from is not changed.

    ``strategy`` is pycma's state over the real and integer axes, unbounded: ``_into_bounds``
    reflects its points into [0, 1]. pycma wants two axes; fillers without meaning stand in for
    missing ones. ``odds`` maps each categorical axis to the probabilities of its options.
    """

    dims: tuple[Dim, ...]
    strategy: Any
    odds: dict[int, NDArray[np.float64]]

    @property
    def normal_axes(self) -> list[int]:
        return [axis for axis in range(len(self.dims)) if axis not in self.odds]

    def __post_init__(self) -> None:
        self.draw = lru_cache(DRAWS)(self._draw)

    def moving(self) -> _Distribution:
        """A copy to be changed."""
        return _Distribution(self.dims, copy.deepcopy(self.strategy), copy.deepcopy(self.odds))

    def _draw(self, count: int, *key: seeds.Part) -> tuple[list[Genome], NDArray[np.float64]]:
        """Genomes, and the points of pycma's space they come from (``[count, axes + fillers]``).

        Pure. A larger count only adds to the end. What was drawn for an ask is drawn again for its tell.
        """
        strategy = copy.deepcopy(self.strategy)
        points = _sample(strategy, count, *key)
        genes = np.empty((count, len(self.dims)))
        genes[:, self.normal_axes] = [_into_bounds(p)[: len(self.normal_axes)] for p in points]
        uniform = seeds.generator(*key, "categories").random((count, len(self.odds)))
        for column, (axis, odds) in enumerate(self.odds.items()):
            chosen = np.searchsorted(np.cumsum(odds)[:-1], uniform[:, column], side="right")
            genes[:, axis] = (chosen + 0.5) / len(odds)
        return [canonical(self.dims, row) for row in genes.tolist()], points

    def mean(self) -> Genome:
        """The normal axes' mean inside the bounds, and the likeliest options."""
        genes = np.empty(len(self.dims))
        genes[self.normal_axes] = _into_bounds(self.strategy.mean)[: len(self.normal_axes)]
        for axis, odds in self.odds.items():
            genes[axis] = centre(self.dims[axis], int(np.argmax(odds)))
        return canonical(self.dims, genes.tolist())


class CMA(Optimizer):
    """Covariance matrix adaptation; recommends the mean of its distribution.

    * ``ask`` draws from a copy of the strategy. ``tell`` keeps no memory of what was asked, either: it
      draws the batch again, from the distribution that the ask had seen, to find the points that the
      genomes came from. (A point beyond a bound is reflected, an integer rounded: told the genome
      alone, pycma would take the distribution for narrower than it is and converge before the optimum.)
      A genome that was not drawn is told as itself; pycma shortens its step to a plausible length.
    * pycma sees ranks, never scores: no NaN, infinity or scale can reach it, and equal scores are
      ordered alike on every machine.
    * Known recipes told first set the mean to the best of them. From time to time the mean is compared with
      it on the same fresh items: if it lags behind by more than the error of that, the distribution begins
      anew around the recipe with half of the step; if it leads, it is what the next is compared with.
    * Fewer points than a population wait for the next tell; points that all score the same, or all
      fail, say nothing and are dropped.
    """

    name: ClassVar[str] = "cma"
    FEWER: ClassVar[bool] = True
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "sigma0",
            Shared(Real(0.05, 0.5, default=0.1, valid=(0.001, 1))),
            "standard deviation of the first batch around the best known recipe, as a part of each range; "
            f"at least {UNKNOWN_STD:g} where none is known",
        ),
        Parameter(
            "guard",
            Shared(Integer(0, 1000, default=5)),
            "batches after which the mean is compared with the best known recipe; 0: never",
        ),
    )

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._waiting: list[tuple[Told, NDArray[np.float64] | None]] = []
        self._began = False
        self._succeeded = False
        self._anchor: Genome | None = None  # what the mean is compared with
        self._sigma = cast(float, self.options["sigma0"])
        self._unguarded = 0  # batches since it was
        # by how many batches had been told; asks that are still to be told need the older ones
        self._states = {0: self._around(None)}
        self._said: list[str] = []

    @property
    def decisions(self) -> Sequence[str]:
        return self._said

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        """Twice the textbook 4 + 3 ln N: averaging over more elites is how CMA-ES bears noise."""
        return 2 * (4 + math.floor(3 * math.log(dimensions)))

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        if not told:
            return
        if self._guarding and [each.genome for each in told] == self.compared():
            self._judge(batch, seen, told[-1])
            return
        if any(each.lead is not None for each in told):
            return  # of a comparison that was asked twice
        best = told[rank(told)[0]]
        self._succeeded |= best.score is not None
        points = self._drawn(batch, seen, [each.genome for each in told])
        now = self._now.moving()
        if not self._began and all(point is None for point in points):
            if best.score is not None:
                now, self._anchor = self._around(best.genome), canonical(self.dims, best.genome)
        else:
            self._unguarded += 1
            self._waiting += zip(told, points, strict=True)
            if len(self._waiting) >= self.population:
                self._update(now, batch)
                self._waiting = []
        self._began = True
        self._remember(batch, seen, now)

    def _remember(self, batch: int, seen: int, now: _Distribution) -> None:
        self._states = {n: state for n, state in self._states.items() if n >= self._newest(seen)}
        self._states[batch + 1] = now

    def _judge(self, batch: int, seen: int, mean: Told) -> None:
        """The mean was compared with the recipe that it is to better."""
        assert self._anchor is not None
        self._unguarded = 0
        if mean.lead is None and mean.score is not None:
            self._said.append("cma: the mean could not be compared with what it began with")
            return
        lead, error = mean.lead or (-math.inf, 0.0)  # it failed
        said = f"cma: the mean leads what it began with by {lead:+.3f} ± {error:.3f} on fresh items"
        if lead < -error:
            self._sigma /= 2
            self._waiting = []
            self._remember(batch, seen, self._around(self._anchor))
            said += ": begun anew around that, by half the step"
        elif lead > error:
            self._anchor = mean.genome
        self._said.append(said)

    @property
    def _guarding(self) -> bool:
        """Whether it is time to compare the mean."""
        guard = cast(int, self.options["guard"])
        return bool(guard) and self._unguarded >= guard and self._anchor not in (None, self.mean)

    def ask(self, count: int, batch: int) -> list[Ask]:
        if self._guarding and count > 1:
            first, mean = self.compared()
            return [
                Ask(first, fresh=True, origin="cma, what the mean is to better"),
                Ask(mean, fresh=True, origin="cma, mean"),
            ]
        return [Ask(genome) for genome in self._now.draw(count, self.seed, "ask", batch)[0]]

    def again(self, count: int, batch: int, seen: int) -> list[Genome]:
        """What ``ask`` returned for ``batch`` when ``seen`` batches had been told."""
        return self._states[self._newest(seen)].draw(count, self.seed, "ask", batch)[0]

    def compared(self) -> list[Genome]:
        """The two that a comparison is between, now."""
        return [*([self._anchor] if self._anchor else []), self.mean]

    @property
    def mean(self) -> Genome:
        """Of the distribution."""
        return self._now.mean()

    def recommend(self, count: int) -> list[Genome]:
        """The mean; then what it was last compared with, if that is another."""
        return list(dict.fromkeys(self.compared()[::-1]))[:count] if self._succeeded else []

    @property
    def _now(self) -> _Distribution:
        return self._states[max(self._states)]

    def _newest(self, seen: int) -> int:
        """The newest state that an ask had seen."""
        return max((n for n in self._states if n <= seen), default=min(self._states))

    def _drawn(
        self, batch: int, seen: int, genomes: Sequence[Genome]
    ) -> list[NDArray[np.float64] | None]:
        """The drawn point behind each genome; None for a genome that was not drawn."""
        count = max(len(genomes), self.population)
        drawn, points = self._states[self._newest(seen)].draw(count, self.seed, "ask", batch)
        row_of = {genome: row for row, genome in reversed(list(enumerate(drawn)))}
        rows = [row_of.get(tuple(genome)) for genome in genomes]
        return [None if row is None else points[row] for row in rows]

    def _around(self, genome: Genome | None) -> _Distribution:
        """The first distribution: around a known recipe, or over the whole space."""
        odds = {}
        for axis, dim in enumerate(self.dims):
            if dim.kind == "categorical":
                odds[axis] = np.full(dim.size, 1 / dim.size)
                if genome is not None:  # half of the probability goes to the recipe's option
                    odds[axis] *= 0.5
                    odds[axis][cell(dim, genome[axis])] += 0.5
        normal = [axis for axis in range(len(self.dims)) if axis not in odds]
        sizes = [self.dims[axis].size for axis in normal]
        smallest = [SMALLEST_INTEGER_STD / size if size else SMALLEST_STD for size in sizes]
        middle = [0.5] * len(self.dims) if genome is None else canonical(self.dims, genome)
        fillers = max(0, 2 - len(normal))
        strategy = cma.CMAEvolutionStrategy(
            _from_bounds([middle[axis] for axis in normal] + [0.5] * fillers),
            max(self._sigma, UNKNOWN_STD) if genome is None else self._sigma,
            {
                "popsize": self.population,
                "minstd": smallest + [SMALLEST_STD] * fillers,
                "maxstd": LARGEST_STD,
                "randn": _Normal(),
                "seed": math.nan,  # leaves NumPy's global generator alone
                "verbose": -9,
            },
        )
        return _Distribution(self.dims, strategy, odds)

    def _update(self, now: _Distribution, batch: int) -> None:
        """Move ``now`` by what waits."""
        told, drawn = zip(*self._waiting, strict=True)
        if len({each.merit for each in told}) < 2:
            return
        strategy, axes, order = now.strategy, now.normal_axes, rank(told)
        # pycma wants an ask before each tell; these draws also fill the axes that mean nothing
        points = _sample(strategy, len(told), self.seed, "tell", batch)
        for point, each, known in zip(points, told, drawn, strict=True):
            if known is not None:
                point[:] = known
            else:
                genes = canonical(self.dims, each.genome)
                point[: len(axes)] = _from_bounds([genes[axis] for axis in axes])
        weights = strategy.sp.weights.positive_weights
        elites = order[: len(weights)]
        for index in elites:
            if (
                told[index].score is None
            ):  # too few succeeded: the mean stands in, which pulls nowhere
                points[index] = strategy.mean
        costs = np.empty(len(order))
        costs[order] = np.arange(len(order))
        with warnings.catch_warnings():
            # foreign points (known recipes, points of an older distribution) are expected
            warnings.simplefilter("ignore")
            strategy.tell(list(points), costs.tolist())
        self._update_odds(
            now,
            [
                (weight, told[index].genome)
                for weight, index in zip(weights, elites, strict=True)
                if told[index].score is not None
            ],
        )

    def _update_odds(self, now: _Distribution, elites: list[tuple[float, Genome]]) -> None:
        """q <- q + rate * sum_i w_i (onehot(x_i) - q), kept above CatCMA's margin.

        The margin lets all the likeliest options together be missed with probability 0.27.
        """
        missed = 1 - 0.73 ** (1 / max(1, len(now.odds)))
        for axis, odds in now.odds.items():
            step = np.zeros_like(odds)
            for weight, genome in elites:
                step -= weight * odds
                step[cell(self.dims[axis], genome[axis])] += weight
            odds += CATEGORICAL_RATE * step
            np.maximum(odds, missed / len(odds), out=odds)
            odds /= odds.sum()


_reflection = cma.BoundTransform([0, 1])


def _into_bounds(point: NDArray[np.float64]) -> NDArray[np.float64]:
    """A point of pycma's space in [0, 1]: the identity inside, smoothly reflected at the bounds."""
    return np.asarray(_reflection.repair(np.array(point)))


def _from_bounds(genes: list[float]) -> NDArray[np.float64]:
    """The point nearest to the middle that ``_into_bounds`` takes to ``genes``."""
    return np.asarray(_reflection.inverse(np.array(genes)))


def _sample(strategy: Any, count: int, *key: seeds.Part) -> NDArray[np.float64]:
    """``[count, axes]`` points of the strategy's distribution; changes its bookkeeping."""
    strategy.opts["randn"].generator = seeds.generator(*key)
    points = np.array(strategy.ask(count))
    strategy.sent_solutions.clear()  # what is told comes from here only by chance
    return points
