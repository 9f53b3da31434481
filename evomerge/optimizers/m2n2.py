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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.optimizers.kernel.variation import blended, stepped
from evomerge.params import Genome, Integer, Parameter, Real, Shared, Value

Floats = NDArray[np.float64]


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
        added = {each.genome: each for each in told if each.score is not None}
        # the newest answers of a genome are the most
        everyone = [each for each in self._archive if each.genome not in added]
        kept = list(range(len(everyone)))
        everyone += added.values()
        matrix = _Matrix.of(everyone)
        for number in range(len(kept), len(everyone)):
            kept.append(number)
            if len(kept) > self._size:
                shares = matrix.only(kept).shares(self._alpha)
                missed = [everyone[at].violation for at in kept]
                del kept[min(range(len(kept)), key=lambda n: (-missed[n], shares[n]))]
        self._archive = [everyone[number] for number in kept]

    def ask(self, count: int, batch: int) -> list[Ask]:
        matrix = _Matrix.of(self._archive)
        shares, attraction = matrix.shares(self._alpha), matrix.attraction(self._alpha)
        asked = (self._child(shares, attraction, batch, number) for number in range(count))
        return [Ask(genome) for genome in asked]

    def recommend(self, count: int) -> list[Genome]:
        if self._best is None or self._best.score is None:
            return []
        rest = sorted(self._archive, key=lambda each: each.merit)
        return list(dict.fromkeys(each.genome for each in (self._best, *rest)))[:count]

    def _child(self, shares: Floats, attraction: Floats, batch: int, number: int) -> Genome:
        draw, size = seeds.generator(self.seed, "ask", batch, number), len(self.dims)
        if not self._archive:
            return canonical(self.dims, draw.random(size).tolist())
        able = self._able()
        first = _drawn([able * shares, able], draw)
        second = _drawn([able * attraction[first], able * shares, able], draw)
        split, weight = int(draw.integers(size + 1)), draw.random()
        weights = np.where(np.arange(size) < split, 1 - weight, weight)  # of the second parent
        one, other = (self._archive[at].genome for at in (first, second))
        genes = blended(self.dims, one, other, weights, draw)
        return canonical(self.dims, stepped(self.dims, genes, self._sigma, draw).tolist())

    def _able(self) -> Floats:
        """``[candidates]``: 0 for those that miss a floor while others hold it, else 1."""
        holds = np.array([told.violation <= 0 for told in self._archive], np.float64)
        return holds if holds.any() else np.ones_like(holds)


@dataclass(frozen=True)
class _Matrix:
    """Candidates by items.

    Attributes:
        worths: ``[candidates, items]``; 0 where there is no answer.
        answered: ``[candidates, items]``: 1 where there is one.
        parts: ``[items]``: what an item counts; they sum to 1.
    """

    worths: Floats
    answered: Floats
    parts: Floats

    @classmethod
    def of(cls, told: Sequence[Told]) -> _Matrix:
        """Of what was told; without answers each objective, or the score alone, is an item."""
        columns: dict[str, dict[str, int]] = {}
        size = 0
        for each in told:
            for name, items in each.answers.items():
                column = columns.setdefault(name, {})
                for item in items:
                    if item not in column:
                        column[item] = size
                        size += 1
        if not size:
            return cls._of_values(told)
        worths, answered = np.zeros((len(told), size)), np.zeros((len(told), size))
        for row, each in enumerate(told):
            for name, items in each.answers.items():
                at = [columns[name][item] for item in items]
                worths[row, at], answered[row, at] = list(items.values()), 1.0
        parts = np.zeros(size)
        for column in columns.values():
            parts[list(column.values())] = 1 / max(1, len(column)) / len(columns)
        return cls(worths, answered, parts)

    @classmethod
    def _of_values(cls, told: Sequence[Told]) -> _Matrix:
        if not told:
            return cls(np.zeros((0, 1)), np.zeros((0, 1)), np.ones(1))
        values = np.array([each.values or (each.score or 0.0,) for each in told], np.float64)
        low, high = values.min(0), values.max(0)
        worths = (values - low) / np.where(high > low, high - low, 1.0)
        return cls(worths, np.ones_like(worths), np.full(worths.shape[1], 1 / worths.shape[1]))

    def only(self, rows: Sequence[int]) -> _Matrix:
        """Some of the candidates."""
        return replace(self, worths=self.worths[rows], answered=self.answered[rows])

    def weights(self, alpha: float) -> Floats:
        """``[items]``: part / z^alpha; who did not answer an item counts as the mean of those who did."""
        means = self.worths.sum(0) / np.maximum(self.answered.sum(0), 1)
        competition = np.where(means > 0, len(self.worths) * means, 1.0) ** alpha
        # what nobody answers sets nobody apart
        found: Floats = np.where(means > 0, self.parts / competition, 0.0)
        return found

    def shares(self, alpha: float) -> Floats:
        """``[candidates]``: fitness, the mean over the items answered."""
        return _ratio(self.worths @ self.weights(alpha), self.answered @ self.parts)

    def attraction(self, alpha: float) -> Floats:
        """``[first, second]``: of the second to the first, the mean over the items that both answered."""
        weights, rows = self.weights(alpha), []
        for worths, answered in zip(self.worths, self.answered, strict=True):
            both = answered * self.answered
            gains = np.maximum(0.0, self.worths - worths) * both
            rows.append(_ratio(gains @ weights, both @ self.parts))
        return np.array(rows).reshape(len(rows), len(rows))


def _ratio(over: Floats, under: Floats) -> Floats:
    """0 where nothing is below."""
    found: Floats = np.where(under > 0, over / np.where(under > 0, under, 1.0), 0.0)
    return found


def _drawn(rows: Sequence[Floats], draw: np.random.Generator) -> int:
    """A number by the chances, up to a factor, of the first row that gives anyone a chance."""
    chances = next(row for row in rows if row.any())
    ends = np.cumsum(chances)
    return int(np.searchsorted(ends, draw.random() * ends[-1], "right"))
