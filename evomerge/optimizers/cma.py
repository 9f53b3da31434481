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
import itertools
import math
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.optimizers import Optimizer, canonical, cell, centre, rank
from evomerge.params import Dim, Genome, Parameter, Real, Shared, Value

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # it would like matplotlib
    import cma

# A recipe has four decimals; a narrower distribution would propose the same recipe again.
SMALLEST_STD = 1e-4
LARGEST_STD = 1 / 3
SMALLEST_INTEGER_STD = 0.2  # in cells: from a centre, 1 % of the draws leave the cell
# Step on a categorical distribution. With the default populations some 5 to 8 elites count, so
# chance alone fixes an option only after mu_eff / rate^2, about 70 batches; selection needs 1/rate.
CATEGORICAL_RATE = 0.3
# How many tells back a told batch may have been asked and is still recognised.
MEMORY = 4
# How many batches that are never told a run may number before the first one told.
UNTOLD = 3


class _Normal:
    """The normal numbers that pycma draws: from a generator that is set before each use."""

    generator: np.random.Generator

    def __call__(self, *shape: int) -> NDArray[np.float64]:
        return self.generator.standard_normal(shape)


@dataclass
class _Distribution:
    """What genomes are drawn from.

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

    def draw(self, count: int, *key: seeds.Part) -> tuple[list[Genome], NDArray[np.float64]]:
        """Genomes, and the points of pycma's space they come from (``[count, axes + fillers]``).

        Pure. A larger count only adds to the end.
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

    * ``ask`` draws from a copy of the strategy. ``tell`` keeps no memory of what was asked, either:
      it draws the batch again to find the points that the genomes came from. (A point beyond a
      bound is reflected, an integer rounded: told the genome alone, pycma would take the
      distribution for narrower than it is and converge before the optimum.) A genome that was not
      drawn is told as itself; pycma shortens its step to a plausible length.
    * pycma sees ranks, never scores: no NaN, infinity or scale can reach it, and equal scores are
      ordered alike on every machine.
    * Known recipes told first set the mean to the best of them.
    * Fewer points than a population wait for the next tell; points that all score the same, or all
      fail, say nothing and are dropped.
    """

    name: ClassVar[str] = "cma"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "sigma0",
            Shared(Real(0.05, 0.5, default=0.25, valid=(0.001, 1))),
            "standard deviation of the first batch, as a part of each range",
        ),
    )

    def __init__(
        self, dims: Sequence[Dim], *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(dims, seed=seed, population=population, **options)
        self._now = self._around(None)
        self._before: deque[_Distribution] = deque(maxlen=MEMORY)
        self._waiting: list[tuple[Genome, float | None, NDArray[np.float64] | None]] = []
        self._tells = 0
        self._offset: int | None = None  # a told batch's number less the tells before it
        self._succeeded = False

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        """Twice the textbook 4 + 3 ln N: averaging over more elites is how CMA-ES bears noise."""
        return 2 * (4 + math.floor(3 * math.log(dimensions)))

    def tell(self, genomes: Sequence[Genome], scores: Sequence[float | None]) -> None:
        order = rank(genomes, scores)
        if not order:
            return
        succeeded = scores[order[0]] is not None
        self._succeeded |= succeeded
        points = self._recognise(genomes)
        before = copy.deepcopy(self._now)
        if self._tells == 0 and all(point is None for point in points):
            if succeeded:
                self._now = self._around(genomes[order[0]])
        else:
            self._waiting += zip(genomes, scores, points, strict=True)
            if len(self._waiting) >= self.population:
                self._update()
                self._waiting = []
        self._before.append(before)
        self._tells += 1

    def ask(self, count: int, batch: int) -> list[Genome]:
        return self._now.draw(count, self.seed, "ask", batch)[0]

    def recommend(self) -> Genome | None:
        return self._now.mean() if self._succeeded else None

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
            cast(float, self.options["sigma0"]),
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

    def _recognise(self, genomes: Sequence[Genome]) -> list[NDArray[np.float64] | None]:
        """The drawn point behind each genome; None for a genome that was not drawn.

        The number of the batch told now is the number of tells before it, plus an offset that the
        first recognised batch shows. It was asked of the present distribution, or with a lag of an
        earlier one. The search may since have dropped genomes and overwritten inactive genes, so
        one real gene in common is enough.
        """
        count = 2 * max(len(genomes), self.population)
        offsets = range(UNTOLD + 1) if self._offset is None else (self._offset,)
        asked = (self._now, *reversed(self._before))
        for distribution, offset in itertools.product(asked, offsets):
            drawn, points = distribution.draw(count, self.seed, "ask", self._tells + offset)
            row_of: dict[object, int] = {}
            for row, genome in enumerate(drawn):
                for mark in self._marks(genome):
                    row_of.setdefault(mark, row)
            rows = [
                next((row_of[mark] for mark in self._marks(genome) if mark in row_of), None)
                for genome in genomes
            ]
            if any(row is not None for row in rows):
                self._offset = offset
                return [None if row is None else points[row] for row in rows]
        return [None] * len(genomes)

    def _marks(self, genome: Genome) -> list[object]:
        """What tells a genome from others: each real gene inside (0, 1), and the whole."""
        genes = enumerate(zip(self.dims, genome, strict=True))
        inner = [(axis, gene) for axis, (dim, gene) in genes if not dim.size and 0 < gene < 1]
        return [*inner, tuple(genome)]

    def _update(self) -> None:
        genomes, scores, drawn = zip(*self._waiting, strict=True)
        if len(set(scores)) < 2:
            return
        strategy, axes, order = self._now.strategy, self._now.normal_axes, rank(genomes, scores)
        # pycma wants an ask before each tell; these draws also fill the axes that mean nothing
        points = _sample(strategy, len(genomes), self.seed, "tell", self._tells)
        for point, genome, known in zip(points, genomes, drawn, strict=True):
            if known is not None:
                point[:] = known
            else:
                genes = canonical(self.dims, genome)
                point[: len(axes)] = _from_bounds([genes[axis] for axis in axes])
        weights = strategy.sp.weights.positive_weights
        elites = order[: len(weights)]
        for index in elites:
            if scores[index] is None:  # too few succeeded: the mean stands in, which pulls nowhere
                points[index] = strategy.mean
        costs = np.empty(len(order))
        costs[order] = np.arange(len(order))
        with warnings.catch_warnings():
            # foreign points (known recipes, points of an older distribution) are expected
            warnings.simplefilter("ignore")
            strategy.tell(list(points), costs.tolist())
        self._update_odds(
            [(w, genomes[i]) for w, i in zip(weights, elites, strict=True) if scores[i] is not None]
        )

    def _update_odds(self, elites: list[tuple[float, Genome]]) -> None:
        """q <- q + rate * sum_i w_i (onehot(x_i) - q), kept above CatCMA's margin.

        The margin lets all the likeliest options together be missed with probability 0.27.
        """
        missed = 1 - 0.73 ** (1 / max(1, len(self._now.odds)))
        for axis, odds in self._now.odds.items():
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
