from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.optimizers import Optimizer, Problem, Told, make
from evomerge.optimizers.cma import CMA
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import OptimizerContract

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    import cma

Loss = Callable[[NDArray[np.float64]], float]


def reals(count: int) -> Problem:
    return Problem(tuple(Dim(f"x{axis}", "real") for axis in range(count)))


def scored(genomes: Sequence[Genome], scores: Sequence[float | None]) -> list[Told]:
    return [Told(genome, score) for genome, score in zip(genomes, scores, strict=True)]


def genomes_of(optimizer: Optimizer, count: int, batch: int) -> list[Genome]:
    return [ask.genome for ask in optimizer.ask(count, batch)]


def evaluations_to(loss: Loss, target: float, problem: Problem, seed: int, lag: int = 1) -> int:
    """Evaluations until the recommendation's loss is below ``target``."""
    optimizer = make("cma", problem, seed=seed)
    asked: dict[int, list[Genome]] = {}
    for batch in range(400):
        asked[batch] = genomes_of(optimizer, optimizer.population, batch)
        if (late := batch - lag + 1) in asked:
            losses = [-loss(np.array(genome)) for genome in asked[late]]
            optimizer.tell(late, max(0, late - lag + 1), scored(asked[late], losses))
            if loss(np.array(optimizer.recommend(1)[0])) < target:
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
        optimizer.tell(1, 0, scored([(0.1, 0.1), (0.9, 0.2), (0.5, 0.5)], [1.0, 2.0, None]))
        assert optimizer.recommend(1) == [pytest.approx((0.9, 0.2), abs=1e-6)]
        drawn = np.array(genomes_of(optimizer, 400, 2))
        assert np.median(drawn, axis=0) == pytest.approx([0.9, 0.2], abs=0.1)

    def test_a_batch_it_asked_is_no_warm_start(self) -> None:
        optimizer = make("cma", reals(4), seed=0)
        genomes = genomes_of(optimizer, optimizer.population, 0)
        optimizer.tell(0, 0, scored(genomes, [-float(i) for i in range(len(genomes))]))
        assert optimizer.recommend(1) != [pytest.approx(genomes[0], abs=1e-3)]

    @pytest.mark.parametrize("lag", [1, 2, 3])
    def test_its_own_points_are_found_again_behind_integers_and_bounds(self, lag: int) -> None:
        problem = Problem((Dim("k", "integer", 4), *reals(3).dims))
        optimizer = make("cma", problem, seed=0, options={"guard": 0})
        assert isinstance(optimizer, CMA)
        optimizer.tell(1, 0, scored([(0.5, 0.0, 1.0, 0.5)], [0.0]))
        asked: dict[int, tuple[int, list[Genome]]] = {}
        for batch in range(2, 12):
            seen = max(2, batch - lag + 1)
            asked[batch] = seen, genomes_of(optimizer, optimizer.population, batch)
            if (late := batch - lag + 1) in asked:
                seen, genomes = asked[late]
                points = optimizer._drawn(late, seen, genomes)
                assert all(point is not None for point in points)
                optimizer.tell(late, seen, scored(genomes, [-abs(g[1] - 0.1) for g in genomes]))
                assert len(optimizer._states) <= lag + 2, "older states are forgotten"

    @pytest.mark.parametrize("lead", [-0.05, 0.0, 0.05])
    def test_its_mean_is_guarded(self, lead: float) -> None:
        """A mean that lags is given up, one that leads is what the next must better."""
        start = (0.2, 0.8)
        optimizer = make("cma", reals(2), seed=0, options={"guard": 3})
        optimizer.tell(1, 0, scored([start], [1.0]))
        for batch in range(2, 5):
            genomes = genomes_of(optimizer, optimizer.population, batch)
            optimizer.tell(batch, batch, scored(genomes, [g[0] for g in genomes]))
        first, mean = optimizer.ask(optimizer.population, 5)
        assert first.fresh and mean.fresh and first.genome == start and mean.genome[0] > 0.25
        told = [Told(first.genome, 1.0, lead=(0.0, 0.0)), Told(mean.genome, 1.0, lead=(lead, 0.02))]
        optimizer.tell(5, 5, told)
        optimizer.tell(6, 5, told)  # asked twice, it counts once
        assert len(optimizer.decisions) == 1 and f"{lead:+.3f} ± 0.020" in optimizer.decisions[0]
        middle = np.median(genomes_of(optimizer, 400, 7), axis=0)
        away = [np.abs(middle - genome).max() for genome in (start, mean.genome)]
        assert (away[0] < 0.02) if lead < 0 else (away[1] < away[0])
        assert optimizer.recommend(2)[-1] == (mean.genome if lead > 0 else start)

    def test_what_misses_a_floor_ranks_below_what_misses_none(self) -> None:
        optimizer = make("cma", reals(3), seed=0)
        for batch in range(25):  # the score pulls to 1, the floor holds below 0.5
            genomes = genomes_of(optimizer, optimizer.population, batch)
            told = [Told(g, g[0], violation=max(0.0, g[0] - 0.5)) for g in genomes]
            optimizer.tell(batch, batch, told)
        (found,) = optimizer.recommend(1)
        assert 0.4 < found[0] < 0.55

    def test_the_best_option_wins_and_others_stay_possible(self) -> None:
        dims = (Dim("method", "categorical", 4), Dim("mode", "categorical", 3), *reals(2).dims)
        optimizer = make("cma", Problem(dims), seed=0)
        self._run(optimizer, self._prefers, 25)
        (found,) = optimizer.recommend(1)
        assert found[:2] == (2.5 / 4, 0.5 / 3)
        assert len({genome[0] for genome in genomes_of(optimizer, 500, 99)}) == 4

    def test_an_integer_axis_never_freezes(self) -> None:
        optimizer = make("cma", Problem((Dim("k", "integer", 9), *reals(3).dims)), seed=0)
        self._run(optimizer, lambda genome: -abs(genome[0] - 6.5 / 9) - abs(genome[1] - 0.3), 25)
        (found,) = optimizer.recommend(1)
        assert found[0] == 6.5 / 9
        assert len({genome[0] for genome in genomes_of(optimizer, 1000, 99)}) > 1

    def test_mostly_failing_batches_do_not_pull_toward_failures(self) -> None:
        optimizer = make("cma", reals(3), seed=0)
        optimizer.tell(1, 0, scored([(0.2, 0.2, 0.2)], [0.0]))
        for batch in range(2, 13):
            genomes = genomes_of(optimizer, optimizer.population, batch)
            values = [-g[1] if max(g) < 0.3 else None for g in genomes]
            optimizer.tell(batch, batch, scored(genomes, values))
        (found,) = optimizer.recommend(1)
        assert max(found) < 0.3

    @staticmethod
    def _prefers(genome: Genome) -> float:
        return (genome[0] == 2.5 / 4) + 0.5 * (genome[1] == 0.5 / 3) - abs(genome[2] - 0.4)

    @staticmethod
    def _run(optimizer: Optimizer, score: Callable[[Genome], float], batches: int) -> None:
        for batch in range(batches):
            genomes = genomes_of(optimizer, optimizer.population, batch)
            optimizer.tell(batch, batch, scored(genomes, [score(genome) for genome in genomes]))
