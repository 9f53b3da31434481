"""Uniform random search: the baseline that every other optimizer has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evomerge import seeds
from evomerge.optimizers import Optimizer, canonical, rank
from evomerge.params import Dim, Genome, Value


class Random(Optimizer):
    """Independent uniform draws; recommends the best point told."""

    name: ClassVar[str] = "random"

    def __init__(
        self, dims: Sequence[Dim], *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(dims, seed=seed, population=population, **options)
        self._best: tuple[float, Genome] | None = None

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 16

    def tell(self, genomes: Sequence[Genome], scores: Sequence[float | None]) -> None:
        for index in rank(genomes, scores)[:1]:
            score = scores[index]
            if score is not None and (self._best is None or score > self._best[0]):
                self._best = (score, genomes[index])

    def ask(self, count: int, batch: int) -> list[Genome]:
        draws = seeds.generator(self.seed, "ask", batch).random((count, len(self.dims)))
        return [canonical(self.dims, row) for row in draws.tolist()]

    def recommend(self) -> Genome | None:
        return self._best[1] if self._best else None
