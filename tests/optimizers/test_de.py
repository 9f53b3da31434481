from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evomerge import seeds
from evomerge.optimizers import Optimizer, Problem, Told, make
from evomerge.optimizers.de import DE
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import OptimizerContract

REALS = tuple(Dim(f"x{axis}", "real") for axis in range(5))
OPTIONS = (Dim("method", "categorical", 4), Dim("topk", "integer", 7), *REALS[:3])


def distance(genome: Genome) -> float:
    return sum((gene - 0.6) ** 2 for gene in genome)


def run(optimizer: Optimizer, loss: Callable[[Genome], float], batches: int) -> None:
    for batch in range(2, 2 + batches):
        asks = optimizer.ask(optimizer.population, batch)
        optimizer.tell(batch, batch, [Told(ask.genome, -loss(ask.genome)) for ask in asks])


class TestDE(OptimizerContract):
    optimizer = "de"

    def test_it_converges(self) -> None:
        optimizer = make("de", Problem(REALS), seed=0)
        run(optimizer, distance, 60)
        assert distance(optimizer.recommend(1)[0]) < 1e-4

    def test_the_mean_bears_noise_that_misleads_the_best(self) -> None:
        """The recommended point is truly better than the one that scored best."""
        gains = []
        for seed in range(5):
            optimizer = make("de", Problem(REALS), seed=seed)
            told: list[Told] = []
            for batch in range(2, 22):
                noise = 0.2 * seeds.generator("noise", seed, batch).standard_normal(99)
                asks = optimizer.ask(optimizer.population, batch)
                all = [
                    Told(ask.genome, -distance(ask.genome) + float(error))
                    for ask, error in zip(asks, noise, strict=False)
                ]
                optimizer.tell(batch, batch, all)
                told += all
            luckiest = min(told, key=lambda each: each.merit)
            gains.append(distance(luckiest.genome) - distance(optimizer.recommend(1)[0]))
        assert sum(gain > 0 for gain in gains) >= 4
        assert np.mean(gains) > 0.02

    def test_only_ranks_count(self) -> None:
        one, other = (make("de", Problem(OPTIONS), seed=0) for _ in range(2))
        run(one, distance, 8)
        run(other, lambda genome: 1e6 * distance(genome) ** 3 - 7, 8)
        assert one.ask(9, 99) == other.ask(9, 99)

    def test_the_best_option_wins_and_others_stay_possible(self) -> None:
        def loss(genome: Genome) -> float:
            wrong = (genome[0] != 2.5 / 4) + abs(genome[1] - 5.5 / 7)
            return wrong + sum(abs(gene - 0.3) for gene in genome[2:])

        optimizer = make("de", Problem(OPTIONS), seed=0)
        run(optimizer, loss, 40)
        assert optimizer.recommend(1)[0][:2] == (2.5 / 4, 5.5 / 7)
        drawn = [ask.genome for ask in optimizer.ask(600, 99)]
        assert len({genome[0] for genome in drawn}) == 4
        assert len({genome[1] for genome in drawn}) == 7

    @pytest.mark.parametrize("lag", [1, 2, 3])
    def test_trials_are_found_again(self, lag: int) -> None:
        """A trial that wins takes the place of the member it came from, however late it is told."""
        optimizer = make("de", Problem(OPTIONS), seed=0)
        assert isinstance(optimizer, DE)
        asked: dict[int, tuple[int, list[Genome]]] = {}
        for batch in range(2, 14):
            seen = max(2, batch - lag + 1)
            genomes = [ask.genome for ask in optimizer.ask(optimizer.population, batch)]
            asked[batch] = seen, genomes
            if (late := batch - lag + 1) in asked:
                before = optimizer._state.members
                seen, genomes = asked[late]
                optimizer.tell(late, seen, [Told(g, float(late)) for g in genomes])
                if len(before) == optimizer.population:
                    trials = dict(zip(genomes, range(len(genomes)), strict=True))
                    members = optimizer._state.members
                    moved = [
                        slot for slot, told in enumerate(members) if trials.get(told.genome) == slot
                    ]
                    assert len(moved) >= 0.8 * len(members)
                assert len(optimizer._states) <= lag + 2, "older states are forgotten"

    def test_known_recipes_are_members(self) -> None:
        optimizer = make("de", Problem(REALS), seed=0)
        optimizer.tell(1, 0, [Told((0.6,) * 5, 0.0), *(Told((g,) * 5, -1.0) for g in (0.1, 0.9))])
        for _ in range(2):
            run(optimizer, distance, 1)
        assert (0.6,) * 5 in optimizer.recommend(9)
