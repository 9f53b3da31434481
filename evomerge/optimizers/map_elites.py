"""MAP-Elites: the best candidate of each cell of a grid over measures, varied among each other.

For a range of good merges that differ in what the suite measures, rather than for one winner: longer and
shorter answers, more of one language and less of another.

Papers: Mouret & Clune, "Illuminating search spaces by mapping elites", https://arxiv.org/abs/1504.04909;
    Vassiliades & Mouret, "Discovering the elite hypervolume by leveraging interspecies correlation",
    https://arxiv.org/abs/1804.03906 (variation along the line between two elites).
Deviations: categorical axes come from either parent, or anew. Cells are compared by scores of different
    batches, so of different items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.optimizers.kernel.grid import Grid, Open
from evomerge.optimizers.kernel.variation import blended, stepped
from evomerge.params import Genome, Integer, Parameter, Real, Shared, Value


class MapElites(Optimizer):
    """The iso+line variation of two elites drawn alike from all cells:

        child = a + sigma N(0, I) + line N(0, 1) (b - a)

    Uniform draws until something succeeded. The grid is over the measures that the suite declares; where
    it declares none, over the objectives that count, from the lowest to the highest value told.
    Recommends the best elites by score.
    """

    name: ClassVar[str] = "map_elites"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "sigma",
            Shared(Real(0.01, 0.3, default=0.05, valid=(0, 1))),
            "standard deviation of a step, as a part of each range",
        ),
        Parameter(
            "line",
            Shared(Real(0, 1, default=0.2, valid=(0, 10))),
            "standard deviation of a step towards another elite, as a part of the way",
        ),
        Parameter(
            "cells",
            Shared(Integer(2, 1000, default=10)),
            "cells of an objective, where the suite declares no measures",
        ),
    )

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._sigma, self._line = (float(str(self.options[name])) for name in ("sigma", "line"))
        cells = int(str(self.options["cells"]))
        declared = bool(problem.measures)
        self._grid: Grid[Told] = Grid(
            problem.measures if declared else [Open(cells) for _ in problem.objectives],
            lambda told: told.measures if declared else told.values,
            lambda told: told.merit,
        )

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 16

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        for each in told:
            if each.score is not None:
                self._grid.add(each)

    def ask(self, count: int, batch: int) -> list[Ask]:
        elites = [told.genome for told in self._grid.members()]
        return [Ask(self._child(elites, batch, number)) for number in range(count)]

    def recommend(self, count: int) -> list[Genome]:
        return [told.genome for told in self._grid.members()][:count]

    def _child(self, elites: Sequence[Genome], batch: int, number: int) -> Genome:
        draw = seeds.generator(self.seed, "ask", batch, number)
        if not elites:
            return canonical(self.dims, draw.random(len(self.dims)).tolist())
        one, other = (elites[int(draw.integers(len(elites)))] for _ in range(2))
        along = np.full(len(self.dims), self._line * draw.standard_normal())
        genes = blended(self.dims, one, other, along, draw)
        return canonical(self.dims, stepped(self.dims, genes, self._sigma, draw).tolist())
