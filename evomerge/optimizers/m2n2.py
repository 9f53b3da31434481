"""M2N2: candidates compete for items, and mate with who answers what they do not.

An item that many of the archive answer is worth little to each, so that who alone answers some stays
though its score is lower. It reads the single answers that are stored anyway, and costs no evaluation.

Paper: Abrantes, Lange & Tang, "Competition and attraction improve model fusion", GECCO 2025,
    https://arxiv.org/abs/2508.16204.
Deviations: genomes are crossed, not weights: interpolation is linear, and the split point falls between
    genes, which stand in the order of depth. A step follows, which the paper takes only where it trains from
    scratch: a recipe's few genes would soon be those of its ancestors. Candidates answered other items
    than their rivals: shares are means over what each answered, and attraction is over what both did.
    Objectives count alike, however many items each has.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.optimizers.kernel.variation import blended, stepped
from evomerge.params import Genome, Integer, Parameter, Real, Shared, Value

TINY = 1e-9  # of an item that nobody answers


class M2N2(Optimizer):
    """With s_ij what answer j of candidate i is worth, and z_j its sum over the archive:

        fitness     f_i = sum_j s_ij / z_j^alpha
        attraction  g_ij = sum_k max(0, s_jk - s_ik) / z_k^alpha

    * A candidate joins the archive, which then drops the one of least fitness; first of all those that miss
      a floor, by how much.
    * The first parent is drawn by fitness, the second by its attraction to the first.
    * Crossover: a split point and a weight w, both uniform; genes before the split are w of the first
      parent, those after it w of the second; then a normal step.
    * Uniform draws until something succeeded. Told no answers, it takes the objectives' values over the
      archive, from 0 to 1, for items.
    * Recommends the best by score of all it was told, then those of the archive.
    """

    name: ClassVar[str] = "m2n2"
    ANSWERS: ClassVar[bool] = True
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "archive",
            Shared(Integer(2, 1000, default=20)),
            "candidates that compete, and are mated",
        ),
        Parameter(
            "alpha",
            Shared(Real(0, 2, default=1, valid=(0, 10))),
            "strength of the competition; 0 is none",
        ),
        Parameter(
            "sigma",
            Shared(Real(0.01, 0.3, default=0.05, valid=(0, 1))),
            "standard deviation of a step, as a part of each range",
        ),
    )

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._size = int(str(self.options["archive"]))
        self._alpha, self._sigma = (float(str(self.options[name])) for name in ("alpha", "sigma"))
        self._best: Told | None = None
        self._archive: list[Told] = []

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 12

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        known = [self._best] if self._best else []
        self._best = min([*known, *told], key=lambda each: each.merit, default=None)
        added = [each for each in told if each.score is not None]
        again = {each.genome for each in added}  # the newest answers of a genome are the most
        everyone = [each for each in self._archive if each.genome not in again]
        first = len(everyone)
        everyone += {each.genome: each for each in added}.values()
        worths, parts = _items(everyone)
        kept = list(range(first))
        for number in range(first, len(everyone)):
            kept.append(number)
            if len(kept) > self._size:
                shares = self._shares(worths[kept], parts)
                missed = [everyone[at].violation for at in kept]
                order = sorted(range(len(kept)), key=lambda n: (-missed[n], shares[n]))
                del kept[order[0]]
        self._archive = [everyone[number] for number in kept]

    def ask(self, count: int, batch: int) -> list[Ask]:
        worths, parts = _items(self._archive)
        return [Ask(self._child(worths, parts, batch, number)) for number in range(count)]

    def recommend(self, count: int) -> list[Genome]:
        if self._best is None or self._best.score is None:
            return []
        rest = sorted(self._archive, key=lambda each: each.merit)
        return list(dict.fromkeys(each.genome for each in (self._best, *rest)))[:count]

    def _weights(
        self, worths: NDArray[np.float64], parts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """``[items]``: part / z^alpha. An item that some did not answer has the mean of those who did."""
        means = _mean(worths, axis=0)
        weights: NDArray[np.float64] = parts / np.maximum(len(worths) * means, TINY) ** self._alpha
        return np.where(means > 0, weights, 0.0)  # what nobody answers sets nobody apart

    def _shares(
        self, worths: NDArray[np.float64], parts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """``[candidates]``: fitness."""
        return _mean(worths * self._weights(worths, parts), axis=1)

    def _attraction(
        self, worths: NDArray[np.float64], parts: NDArray[np.float64], first: int
    ) -> NDArray[np.float64]:
        """``[candidates]``: to the candidate ``first``."""
        gains = np.maximum(0.0, worths - worths[first])
        return _mean(gains * self._weights(worths, parts), axis=1)

    def _child(
        self,
        worths: NDArray[np.float64],
        parts: NDArray[np.float64],
        batch: int,
        number: int,
    ) -> Genome:
        draw, size = seeds.generator(self.seed, "ask", batch, number), len(self.dims)
        if not self._archive:
            return canonical(self.dims, draw.random(size).tolist())
        able, shares = self._able(), self._shares(worths, parts)
        first = _drawn([able * shares, able], draw)
        gains = self._attraction(worths, parts, first)
        second = _drawn([able * gains, able * shares, able], draw)
        split, weight = int(draw.integers(size + 1)), draw.random()
        weights = np.where(np.arange(size) < split, 1 - weight, weight)  # of the second parent
        one, other = (self._archive[at].genome for at in (first, second))
        genes = blended(self.dims, one, other, weights, draw)
        return canonical(self.dims, stepped(self.dims, genes, self._sigma, draw).tolist())

    def _able(self) -> NDArray[np.float64]:
        """``[candidates]``: 0 for those that miss a floor while others hold it, else 1."""
        holds = np.array([told.violation <= 0 for told in self._archive], np.float64)
        return holds if holds.any() else np.ones_like(holds)


def _items(told: Sequence[Told]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[candidates, items]``: worths, NaN where there is no answer; ``[items]``: parts that sum to 1."""
    rows = [_answers(each) for each in told]
    if not any(rows):
        return _values(told)
    names = dict.fromkeys((name, item) for row in rows for name in row for item in row[name])
    column = {name: number for number, name in enumerate(names)}
    worths = np.full((len(told), len(column)), np.nan)
    for number, row in enumerate(rows):
        for name, items in row.items():
            for item, worth in items.items():
                worths[number, column[name, item]] = worth
    counts = dict.fromkeys((name for name, _ in column), 0)
    for name, _ in column:
        counts[name] += 1
    return worths, np.array([1 / counts[name] / len(counts) for name, _ in column])


def _answers(told: Told) -> Mapping[str, Mapping[str, float]]:
    return {name: items for name, items in told.answers.items() if items}


def _values(told: Sequence[Told]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same with an item for each objective, or for the score alone."""
    if not told:
        return np.zeros((0, 0)), np.zeros(0)
    values = np.array([each.values or (each.score or 0.0,) for each in told], np.float64)
    low, high = values.min(0), values.max(0)
    worths = (values - low) / np.where(high > low, high - low, 1.0)
    return worths, np.full(worths.shape[1], 1 / worths.shape[1])


def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Without NaN; 0 where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found: NDArray[np.float64] = np.nanmean(values, axis=axis)
    return np.nan_to_num(found)


def _drawn(rows: Sequence[NDArray[np.float64]], draw: np.random.Generator) -> int:
    """A number by the chances, up to a factor, of the first row that gives anyone a chance."""
    chances = next(row for row in rows if row.any())
    ends = np.cumsum(chances)
    return int(np.searchsorted(ends, draw.random() * ends[-1], "right"))
