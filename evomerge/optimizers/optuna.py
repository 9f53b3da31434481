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
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical, cell, centre
from evomerge.params import Genome, Integer, Parameter, Shared, Value

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
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        # axes are named by position: two dims may share a name
        self._space: dict[str, BaseDistribution] = {
            str(axis): _DISTRIBUTIONS[dim.kind](dim) for axis, dim in enumerate(self.dims)
        }
        self._told: list[Told] = []

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 12

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        self._told += told

    def ask(self, count: int, batch: int) -> list[Ask]:
        study = self._study(seeds.small(self.seed, "ask", batch))
        trials = [study.ask(self._space) for _ in range(count)]
        return [Ask(self._genome(trial.params)) for trial in trials]

    def recommend(self, count: int) -> list[Genome]:
        best = min(self._told, key=lambda told: told.merit, default=None)
        return [] if best is None or best.score is None else [best.genome][:count]

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
        # TPE sees feasible scores as they are; what misses a floor lies below all of them, the lower the more it
        # misses, and a failed trial, which TPE would ignore, below everything: it must be avoided
        feasible = [
            told.score for told in self._told if told.score is not None and not told.violation
        ]
        lowest = min(feasible, default=0.0) - 1.0
        missed = [told.violation for told in self._told]
        failed = lowest - max(missed, default=0.0) - 1.0 if any(missed) else lowest

        def value(told: Told) -> float:
            if told.score is None:
                return failed
            return lowest - told.violation if told.violation else told.score

        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=self._params(told.genome),
                    distributions=self._space,
                    value=value(told),
                )
                for told in self._told
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
