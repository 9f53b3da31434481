"""Descent by slopes: one candidate a batch, with the derivative of its score by every gene.

Papers: see ``kernel.descent``; Yang et al. 2024, AdaMerging, https://arxiv.org/abs/2310.02575 (coefficients of a
    merge, descended on).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.optimizers.kernel.descent import Descent
from evomerge.params import Genome, Integer, Parameter, Real, Shared, Value

RATE = Parameter(
    "rate",
    Shared(Real(0.01, 0.3, default=0.08, valid=(1e-4, 1))),
    "the first step of a descent, as a part of each range; it falls to a tenth",
)
STEPS = Parameter(
    "steps", Shared(Integer(1, 10_000, default=16)), "steps of a descent until the rate has fallen"
)


class Slope(Optimizer):
    """Adam on the genes, from the best known recipe; recommends the mean of the second half.

    * Axes without a slope stay where the best known recipe has them.
    * With a lag, slopes are of points that a few steps were made since: the step is made from the newest.
    """

    name: ClassVar[str] = "slope"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (RATE, STEPS)
    FEWER: ClassVar[bool] = True
    SLOPES: ClassVar[bool] = True
    observed = 1

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._best: Told | None = None
        self._descent: Descent | None = None

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 1

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        for each in told:
            if not seen:
                if each.score is not None and (self._best is None or each.merit < self._best.merit):
                    self._best = each
            elif each.slope is not None:
                self._started().move(each.slope)
            else:
                self._started().back()

    def ask(self, count: int, batch: int) -> list[Ask]:
        point = self._descent.point if self._descent else self._first()
        return [Ask(canonical(self.dims, point), slope=True)]

    def recommend(self, count: int) -> list[Genome]:
        if self._best is None:
            return []
        mean = self._descent.mean if self._descent else self._best.genome
        return [canonical(self.dims, mean)][:count]

    def _first(self) -> Genome:
        return self._best.genome if self._best else canonical(self.dims, [0.5] * len(self.dims))

    def _started(self) -> Descent:
        if self._descent is None:
            self._descent = Descent(
                self._first(),
                range(len(self.dims)),
                self.problem.smooth,
                cast(int, self.options["steps"]),
                cast(float, self.options["rate"]),
            )
        return self._descent
