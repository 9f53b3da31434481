from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.optimizers import Optimizer, make
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import OptimizerContract

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    import cma

Loss = Callable[[NDArray[np.float64]], float]


def reals(count: int) -> list[Dim]:
    return [Dim(f"x{axis}", "real") for axis in range(count)]


def evaluations_to(loss: Loss, target: float, dims: list[Dim], seed: int, lag: int = 1) -> int:
    """Evaluations until the recommendation's loss is below ``target``."""
    optimizer = make("cma", dims, seed=seed)
    asked: list[list[Genome]] = []
    for batch in range(400):
        # a run may number batches that are never told before the first one told
        asked.append(optimizer.ask(optimizer.population, batch + 2))
        if batch >= lag - 1:
            told = asked[batch - lag + 1]
            optimizer.tell(told, [-loss(np.array(genome)) for genome in told])
            if loss(np.array(optimizer.recommend())) < target:
                break
    return (batch + 1) * optimizer.population


def plain_pycma(loss: Loss, target: float, dimensions: int, population: int, seed: int) -> int:
    options = {"popsize": population, "bounds": [0, 1], "seed": seed + 1, "verbose": -9}
    strategy = cma.CMAEvolutionStrategy([0.5] * dimensions, 0.25, options)
    while strategy.countiter < 400 and loss(strategy.result.xfavorite) >= target:
        points = strategy.ask()
        strategy.tell(points, [loss(point) for point in points])
    return int(strategy.countevals)


class TestCMA(OptimizerContract):
    optimizer = "cma"

    @pytest.mark.parametrize("optimum", [0.7, 0.0])
    @pytest.mark.parametrize("condition", [1.0, 1e3])
    def test_it_converges_as_fast_as_plain_pycma(self, optimum: float, condition: float) -> None:
        scales = condition ** np.linspace(0, 1, 6)
        target = 1e-4 * scales.mean()

        def loss(x: NDArray[np.float64]) -> float:
            return float(np.sum(scales * (x - optimum) ** 2))

        ours = np.median([evaluations_to(loss, target, reals(6), seed) for seed in range(5)])
        plain = np.median([plain_pycma(loss, target, 6, 18, seed) for seed in range(5)])
        assert ours <= 1.4 * plain

    def test_a_lag_costs_little(self) -> None:
        def loss(x: NDArray[np.float64]) -> float:
            return float(np.sum((x - 0.6) ** 2))

        generational = np.median([evaluations_to(loss, 1e-4, reals(5), seed) for seed in range(5)])
        delayed = np.median([evaluations_to(loss, 1e-4, reals(5), s, lag=2) for s in range(5)])
        assert delayed <= 2 * generational

    def test_known_recipes_set_the_mean(self) -> None:
        optimizer = make("cma", reals(2), seed=0)
        optimizer.tell([(0.1, 0.1), (0.9, 0.2), (0.5, 0.5)], [1.0, 2.0, None])
        assert optimizer.recommend() == pytest.approx((0.9, 0.2), abs=1e-6)
        drawn = np.array(optimizer.ask(400, 1))
        assert np.median(drawn, axis=0) == pytest.approx([0.9, 0.2], abs=0.1)

    def test_a_batch_it_asked_is_no_warm_start(self) -> None:
        optimizer = make("cma", reals(4), seed=0)
        genomes = optimizer.ask(optimizer.population, 0)
        optimizer.tell(genomes, [-float(i) for i in range(len(genomes))])
        assert optimizer.recommend() != pytest.approx(genomes[0], abs=1e-3)

    def test_overwritten_inactive_genes_do_not_narrow_their_axis(self) -> None:
        optimizer = make("cma", reals(4), seed=0)
        for batch in range(15):
            genomes = optimizer.ask(optimizer.population, batch)
            told = [(*genome[:3], 0.5) for genome in genomes]
            optimizer.tell(
                told, [-sum((gene - 0.3) ** 2 for gene in genome[:3]) for genome in told]
            )
        spread = np.array(optimizer.ask(200, 99)).std(axis=0)
        assert spread[3] > 0.04  # told as it stands, the constant gene halves it

    def test_the_best_option_wins_and_others_stay_possible(self) -> None:
        dims = [Dim("method", "categorical", 4), Dim("mode", "categorical", 3), *reals(2)]
        optimizer = make("cma", dims, seed=0)
        for batch in range(25):
            genomes = optimizer.ask(optimizer.population, batch)
            optimizer.tell(genomes, [self._prefers(genome) for genome in genomes])
        found = optimizer.recommend()
        assert found is not None
        assert found[:2] == (2.5 / 4, 0.5 / 3)
        assert len({genome[0] for genome in optimizer.ask(500, 99)}) == 4

    def test_an_integer_axis_never_freezes(self) -> None:
        optimizer = make("cma", [Dim("k", "integer", 9), *reals(3)], seed=0)
        self._run(optimizer, lambda genome: -abs(genome[0] - 6.5 / 9) - abs(genome[1] - 0.3), 25)
        found = optimizer.recommend()
        assert found is not None
        assert found[0] == 6.5 / 9
        assert len({genome[0] for genome in optimizer.ask(1000, 99)}) > 1

    def test_mostly_failing_batches_do_not_pull_toward_failures(self) -> None:
        optimizer = make("cma", reals(3), seed=0)
        optimizer.tell([(0.2, 0.2, 0.2)], [0.0])
        for batch in range(1, 12):
            genomes = optimizer.ask(optimizer.population, batch)
            optimizer.tell(genomes, [-g[1] if max(g) < 0.3 else None for g in genomes])
        found = optimizer.recommend()
        assert found is not None
        assert max(found) < 0.3

    @staticmethod
    def _prefers(genome: Genome) -> float:
        return (genome[0] == 2.5 / 4) + 0.5 * (genome[1] == 0.5 / 3) - abs(genome[2] - 0.4)

    @staticmethod
    def _run(optimizer: Optimizer, score: Callable[[Genome], float], batches: int) -> None:
        for batch in range(batches):
            genomes = optimizer.ask(optimizer.population, batch)
            optimizer.tell(genomes, [score(genome) for genome in genomes])
