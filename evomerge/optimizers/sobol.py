"""Scrambled Sobol points: random search that leaves no part of the space out.

Paper: Owen, "Scrambling Sobol' and Niederreiter-Xing Points", Journal of Complexity 14, 1998.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from evomerge import seeds
from evomerge.optimizers import Ask, canonical
from evomerge.optimizers.random import Random


class Sobol(Random):
    """One scrambled sequence a seed, a stretch of it each batch; recommends the best point told.

    A batch of 2^k points meets every 2^-k of each axis once, and batches fill each other's gaps, told
    or not. Integer and categorical axes take the cell that a coordinate falls in. What is asked
    beyond a population is of a sequence of the batch's own: the next stretch belongs to the next batch.
    """

    name: ClassVar[str] = "sobol"

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 16

    def ask(self, count: int, batch: int) -> list[Ask]:
        points = self._stretch(batch * self.population, self.population, "sobol")
        if count > self.population:
            beyond = self._stretch(0, count - self.population, "sobol beyond", batch)
            points = np.concatenate([points, beyond])
        return [Ask(canonical(self.dims, row)) for row in points[:count].tolist()]

    def _stretch(self, first: int, count: int, *key: seeds.Part) -> NDArray[np.float64]:
        """``[count, dims]``: points ``first`` and following of the sequence named by ``key``."""
        sequence = qmc.Sobol(len(self.dims), rng=seeds.key(self.seed, *key))
        if first:
            sequence.fast_forward(first)
        points = sequence.random(1 << (count - 1).bit_length())  # it warns of other first counts
        return np.asarray(points[:count], dtype=np.float64)
