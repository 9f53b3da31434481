"""Uniform random search: the baseline that every other optimizer has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.params import Genome, Value


class Random(Optimizer):
    """Independent uniform draws; recommends the best point told."""

    name: ClassVar[str] = "random"

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._best: Told | None = None

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 16

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        known = [self._best] if self._best else []
        self._best = min([*known, *told], key=lambda each: each.merit, default=None)

    def ask(self, count: int, batch: int) -> list[Ask]:
        draws = seeds.generator(self.seed, "ask", batch).random((count, len(self.dims)))
        return [Ask(canonical(self.dims, row)) for row in draws.tolist()]

    def recommend(self, count: int) -> list[Genome]:
        if self._best is None or self._best.score is None:
            return []
        return [self._best.genome][:count]
