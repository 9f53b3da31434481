"""CycleQD: a grid of elites for each objective, which take turns as what is to be improved.

In the grid of an objective its own values are the quality, and those of the others say which cell a
candidate lies in: so what is best at one thing is kept at every level of the others, and their children
can be good at several.

Paper: Kuroki et al., "Agent skill acquisition for large language models via CycleQD", ICLR 2025,
    https://arxiv.org/abs/2410.14735.
Deviations: crossover and mutation are of genomes, whose real genes are coefficients of task vectors.
    Mutation is a normal step; the paper's strengthens each singular direction of a task vector by a share drawn
    for it, which a step does in a space of the method ``svd_jitter``. The objective changes with the batch,
    not with the candidate. Cells reach from the lowest to the highest value told, unless the suite declares measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.optimizers.kernel.grid import Grid, Open
from evomerge.optimizers.kernel.variation import blended, stepped
from evomerge.params import Genome, Integer, Parameter, Real, Shared, Value

WEIGHT_STD = 0.01  # of the two weights of a crossover around 1
LEAST, MOST = (
    0.5,
    1.3,
)  # factors of the worst and the best elite's chance, for quality and each measure


class CycleQD(Optimizer):
    """Batch b varies the elites of objective b modulo the number of objectives.

    * Chances (the paper's elite sampling): quality and measures are scaled to 0.5..1.3 over the grid's
      elites; an elite's chance is the product. Those that miss a floor have none while others hold it.
    * Crossover: child = (w_1 a + w_2 b) / (w_1 + w_2), w ~ N(1, 0.01^2); then a normal step.
    * Every candidate is offered to every grid.
    * Measures that the suite declares take the place of the other objectives; that of the objective itself
      is left out.
    * Recommends the best by score, then the best of each objective, then the rest of the elites by score.
    """

    name: ClassVar[str] = "cycleqd"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "sigma",
            Shared(Real(0.01, 0.3, default=0.05, valid=(0, 1))),
            "standard deviation of a step, as a part of each range",
        ),
        Parameter(
            "cells",
            Shared(Integer(2, 1000, default=15)),
            "cells of an objective, where the suite declares no measures",
        ),
    )

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._sigma = float(str(self.options["sigma"]))
        # without objectives the score is the only one
        self._best: Told | None = None  # which may be no grid's elite
        self._grids = [self._grid(number) for number in range(max(1, len(problem.objectives)))]

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 12

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        known = [self._best] if self._best else []
        self._best = min([*known, *told], key=lambda each: each.merit, default=None)
        for each in told:
            if each.score is not None:
                for grid in self._grids:
                    grid.add(each)

    def ask(self, count: int, batch: int) -> list[Ask]:
        objective = batch % len(self._grids)
        elites = self._grids[objective].members()
        chances = self._chances(elites, objective)
        return [Ask(self._child(elites, chances, batch, number)) for number in range(count)]

    def recommend(self, count: int) -> list[Genome]:
        if self._best is None or self._best.score is None:
            return []
        rows = [grid.members() for grid in self._grids]
        elites = sorted((told for row in rows for told in row), key=lambda told: told.merit)
        order = [self._best, *(row[0] for row in rows if row), *elites]
        return list(dict.fromkeys(told.genome for told in order))[:count]

    def _grid(self, objective: int) -> Grid[Told]:
        """The grid whose quality is one objective."""
        names, declared = self.problem.objectives, self.problem.measures
        own = names[objective] if names else None
        others = [at for at in range(len(names)) if at != objective]
        kept = [at for at, measure in enumerate(declared) if measure.name != own]
        cells = int(str(self.options["cells"]))
        return Grid(
            [declared[at] for at in kept] if declared else [Open(cells) for _ in others],
            lambda told: self._measures(told, objective),
            lambda told: (told.violation > 0, told.violation, -_quality(told, objective)),
        )

    def _measures(self, told: Told, objective: int) -> tuple[float, ...]:
        """Where a candidate lies in the grid of an objective."""
        if not self.problem.measures:
            return told.values[:objective] + told.values[objective + 1 :]
        own = self.problem.objectives[objective] if self.problem.objectives else None
        pairs = zip(self.problem.measures, told.measures, strict=True)
        return tuple(value for measure, value in pairs if measure.name != own)

    def _chances(self, elites: Sequence[Told], objective: int) -> NDArray[np.float64]:
        """Of each elite to be a parent; they sum to 1."""
        if not elites:
            return np.zeros(0)
        rows = [(_quality(e, objective), *self._measures(e, objective)) for e in elites]
        values = np.array(rows)
        low, high = values.min(0), values.max(0)
        shares = (values - low) / np.where(high > low, high - low, 1.0)
        chances: NDArray[np.float64] = np.prod(LEAST + (MOST - LEAST) * shares, axis=1)
        missed = np.array([told.violation > 0 for told in elites])
        if not missed.all():
            chances[missed] = 0.0
        chances /= chances.sum()
        return chances

    def _child(
        self, elites: Sequence[Told], chances: NDArray[np.float64], batch: int, number: int
    ) -> Genome:
        draw = seeds.generator(self.seed, "ask", batch, number)
        if not elites:
            return canonical(self.dims, draw.random(len(self.dims)).tolist())
        ends = np.cumsum(chances)[:-1]  # drawn by hand: a sum may be 1 but for its last bit
        one, other = (elites[int(np.searchsorted(ends, draw.random(), "right"))] for _ in range(2))
        weights = 1 + WEIGHT_STD * draw.standard_normal(2)
        shares = np.full(len(self.dims), weights[1] / weights.sum())
        genes = blended(self.dims, one.genome, other.genome, shares, draw)
        return canonical(self.dims, stepped(self.dims, genes, self._sigma, draw).tolist())


def _quality(told: Told, objective: int) -> float:
    if told.values:
        return told.values[objective]
    assert told.score is not None, "elites succeeded"
    return told.score
