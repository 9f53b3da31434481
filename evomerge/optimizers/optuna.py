"""TPE, the tree-structured Parzen estimator, by Optuna.

Strong where much is categorical. It compares points of different batches by their scores, so it
suffers more than CMA-ES when batches are scored on different items.

Papers: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011;
    Watanabe, "Tree-Structured Parzen Estimator", https://arxiv.org/abs/2304.11127.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from evomerge import seeds
from evomerge.optimizers import Optimizer, canonical, cell, centre, rank
from evomerge.params import Dim, Genome, Integer, Parameter, Shared, Value

_DISTRIBUTIONS = {
    "real": lambda dim: FloatDistribution(0.0, 1.0),
    "integer": lambda dim: IntDistribution(0, dim.size - 1),
    "categorical": lambda dim: CategoricalDistribution(tuple(range(dim.size))),
}


class TPE(Optimizer):
    """Multivariate TPE; recommends the best point told.

    ``ask`` rebuilds the study in memory, with a sampler seeded for the batch. Within a batch the
    constant liar keeps points apart.
    """

    name: ClassVar[str] = "optuna"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "startup",
            Shared(Integer(1, 1000, default=10)),
            "points told, known recipes included, before uniform draws give way to the model",
        ),
    )

    def __init__(
        self, dims: Sequence[Dim], *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(dims, seed=seed, population=population, **options)
        # axes are named by position: two dims may share a name
        self._space: dict[str, BaseDistribution] = {
            str(axis): _DISTRIBUTIONS[dim.kind](dim) for axis, dim in enumerate(self.dims)
        }
        self._told: list[tuple[Genome, float | None]] = []

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 12

    def tell(self, genomes: Sequence[Genome], scores: Sequence[float | None]) -> None:
        rank(genomes, scores)  # raises on what may not be told
        self._told += zip(genomes, scores, strict=True)

    def ask(self, count: int, batch: int) -> list[Genome]:
        study = self._study(seeds.small(self.seed, "ask", batch))
        trials = [study.ask(self._space) for _ in range(count)]
        return [self._genome(trial.params) for trial in trials]

    def recommend(self) -> Genome | None:
        successes = [(score, genome) for genome, score in self._told if score is not None]
        return max(successes, key=lambda told: told[0])[1] if successes else None

    def _study(self, seed: int) -> optuna.Study:
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every new study
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=int(str(self.options["startup"])),
                    multivariate=True,
                    constant_liar=True,
                )
            study = optuna.create_study(direction="maximize", sampler=sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
        # a failed trial would be ignored by TPE; it must be avoided: below the worst success
        failed = min((score for _, score in self._told if score is not None), default=0.0) - 1.0
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=self._params(genome),
                    distributions=self._space,
                    value=failed if score is None else score,
                )
                for genome, score in self._told
            ]
        )
        return study

    def _params(self, genome: Genome) -> dict[str, float | int]:
        return {
            str(axis): cell(dim, gene) if dim.size else min(max(gene, 0.0), 1.0)
            for axis, (dim, gene) in enumerate(zip(self.dims, genome, strict=True))
        }

    def _genome(self, params: dict[str, float | int]) -> Genome:
        values = [params[str(axis)] for axis in range(len(self.dims))]
        genes = [
            centre(dim, int(value)) if dim.size else value
            for dim, value in zip(self.dims, values, strict=True)
        ]
        return canonical(self.dims, genes)
