"""Pools of sources whose averages have a known score."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers import Optimizer, Problem, Told
from evomerge.params import Dim, Genome

Score = Callable[[Genome], float | None]


class Pool:
    """``size`` sources in a space of some directions; a genome is the weights themselves.

    Attributes:
        vectors: ``[sources, directions]``: their task vectors.
        goal: the task vector of the best merge there could be.
    """

    def __init__(self, size: int, seed: int, groups: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.size = size
        self.goal = draw.normal(size=6)
        self.vectors: NDArray[np.float64] = self.goal + 2 * draw.normal(size=(size, 6))
        if groups:  # sources of a group are alike
            centres = 4 * draw.normal(size=(groups, 6))
            self.vectors = centres[np.arange(size) % groups] + draw.normal(size=(size, 6))
        self.names = tuple(f"s{n}" for n in range(size))

    @property
    def problem(self) -> Problem:
        def blend(weights: Mapping[str, float]) -> Genome:
            return tuple(weights[name] for name in self.names)

        products = self.vectors @ self.vectors.T
        kinship = {
            (a, b): float(products[m, n])
            for m, a in enumerate(self.names)
            for n, b in enumerate(self.names)
        }
        dims = tuple(Dim(name, "real") for name in self.names)
        return Problem(dims, ("x",), (), self.names, blend, kinship)

    def score(self, genome: Genome) -> float:
        return -float(np.sum((np.array(genome) @ self.vectors - self.goal) ** 2))

    def cosine(self, one: Genome, other: Genome) -> float:
        a, b = (np.array(each) @ self.vectors for each in (one, other))
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def run(optimizer: Optimizer, score: Score, batches: int) -> list[list[Genome]]:
    """What was asked, batch by batch."""
    asked = []
    for batch in range(2, 2 + batches):
        asked.append([ask.genome for ask in optimizer.ask(optimizer.population, batch)])
        optimizer.tell(batch, batch, [Told(genome, score(genome)) for genome in asked[-1]])
    return asked
