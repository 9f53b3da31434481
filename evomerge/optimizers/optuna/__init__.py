"""Samplers of Optuna: TPE, the tree-structured Parzen estimator, and a Gaussian process.

TPE is strong where much is categorical; the Gaussian process where evaluations are few, at a cost that grows
with the cube of their number. Both compare points of different batches by their scores, so they suffer more than CMA-ES
when batches are scored on different items.

Papers: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011;
    Watanabe, "Tree-Structured Parzen Estimator", https://arxiv.org/abs/2304.11127;
    Ament et al., "Unexpected Improvements to Expected Improvement", https://arxiv.org/abs/2310.20708;
    Daulton et al., "Differentiable Expected Hypervolume Improvement", https://arxiv.org/abs/2006.05078.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical, cell, centre, mean
from evomerge.optimizers.pareto.fronts import fronts, points_of, spread
from evomerge.params import Choice, Genome, Integer, Parameter, Shared, Value

_DISTRIBUTIONS = {
    "real": lambda dim: FloatDistribution(0.0, 1.0),
    "integer": lambda dim: IntDistribution(0, dim.size - 1),
    "categorical": lambda dim: CategoricalDistribution(tuple(range(dim.size))),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna announces every new study, and every time what a Gaussian process could use besides."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


class Optuna(Optimizer):
    """Multivariate TPE or a Gaussian process; recommends the best point told, or about it.

    ``ask`` rebuilds the study in memory, with a sampler seeded for the batch. Within a batch the
    constant liar (TPE) or the expectation over what is pending (Gaussian process) keeps points apart.
    """

    name: ClassVar[str] = "optuna"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "startup",
            Shared(Integer(1, 1000, default=10)),
            "points told, known recipes included, before uniform draws give way to the model",
        ),
        Parameter(
            "sampler",
            Shared(Choice(("tpe", "gp"), "tpe")),
            "tpe, or gp: a Gaussian process with noise, for at most a few hundred evaluations",
        ),
        Parameter(
            "aim",
            Shared(Choice(("score", "front"), "score")),
            "what is maximised: the score, or the front of the objectives",
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
        with quiet():
            study = self._study(seeds.small(self.seed, "ask", batch))
            trials = [study.ask(self._space) for _ in range(count)]
        return [Ask(self._genome(trial.params)) for trial in trials]

    def recommend(self, count: int) -> list[Genome]:
        ranked = sorted((t for t in self._told if t.score is not None), key=lambda t: t.merit)
        if not ranked:
            return []
        if self.options["aim"] == "score" or ranked[0].violation:
            return [self._believed(ranked)][:count]
        feasible = [told for told in ranked if not told.violation]
        front = fronts(points_of(feasible))[0]  # ordered as it was: the best score is first
        chosen = spread(points_of([feasible[at] for at in front]), 0, count)
        return list(dict.fromkeys(feasible[front[at]].genome for at in chosen))

    def _believed(self, ranked: Sequence[Told]) -> Genome:
        """The best of exact scores; of noisy ones the mean of the best tenth."""
        if all(error == 0 for error in ranked[0].errors):
            return ranked[0].genome
        top = ranked[: max(3, len(ranked) // 10)]
        return mean(self.dims, [told for told in top if not told.violation] or top)

    def _study(self, seed: int) -> optuna.Study:
        values = self._values()
        study = optuna.create_study(
            directions=["maximize"] * (len(values[0]) if values else 1), sampler=self._sampler(seed)
        )
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=self._params(told.genome), distributions=self._space, values=list(row)
                )
                for told, row in zip(self._told, values, strict=True)
            ]
        )
        return study

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        startup = int(str(self.options["startup"]))
        if self.options["sampler"] == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
        )

    def _values(self) -> list[tuple[float, ...]]:
        """What the study is told of each point, maximised.

        Feasible points have their values as they are. What misses a floor lies below all of them, the lower
        the more it misses, and a failed trial, which a sampler would ignore, below everything: it must be
        avoided. No lower than that: a Gaussian process would see nothing but the cliff.
        """
        alive = [told for told in self._told if told.score is not None]
        whole = self.options["aim"] == "front" and all(told.values for told in alive)

        def own(told: Told) -> tuple[float, ...]:
            return told.values if whole else (told.score or 0.0,)

        width = len(own(alive[0])) if alive else 1
        feasible = [own(told) for told in alive if not told.violation] or [(0.0,) * width]
        lows = [min(column) for column in zip(*feasible, strict=True)]
        spans = [max(column) - min(column) or 1.0 for column in zip(*feasible, strict=True)]

        def value(told: Told) -> tuple[float, ...]:
            if told.score is not None and not told.violation:
                return own(told)
            missed = 1.0 if told.score is None else told.violation / (1 + told.violation)
            return tuple(low - (1 + missed) * span for low, span in zip(lows, spans, strict=True))

        return [value(told) for told in self._told]

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
