from __future__ import annotations

import itertools

import pytest

from evomerge.optimizers import Told, make
from evomerge.optimizers.kernel.blends import between, even, kinship
from evomerge.testing.blends import Pool, run
from evomerge.testing.optimizers import OptimizerContract


class TestKinship(OptimizerContract):
    optimizer = "kinship"
    learns, draws, pooled = False, False, True

    def test_kinship_of_averages_follows_from_that_of_sources(self) -> None:
        pool = Pool(5, 0)
        one, other = even(5, [0, 1, 2]), between(even(5, [2]), even(5, [4]), 0.3)
        expected = [pool.cosine(one, other), 1.0]
        assert kinship(pool.problem, one, [other, one]) == pytest.approx(expected)

    @pytest.mark.parametrize("size", [2, 3, 7, 16])
    def test_a_generation_is_the_best_in_pairs_and_the_best_with_a_stranger(
        self, size: int
    ) -> None:
        pool = Pool(size, size)
        optimizer = make("kinship", pool.problem, seed=0, population=size)
        sources = [even(size, [n]) for n in range(size)]
        optimizer.tell(2, 2, [Told(each, pool.score(each)) for each in sources])
        order = sorted(sources, key=pool.score, reverse=True)
        expected = {between(a, b, 0.5) for a, b in itertools.combinations(order[:3], 2)}
        strangers = sorted(order[1:], key=lambda each: pool.cosine(order[0], each))
        free = [between(order[0], each, 0.5) for each in strangers]
        wanted = expected | {free[0]}
        asked = {ask.genome for ask in optimizer.ask(1 + len(wanted), 3)}
        assert asked == wanted | {order[0]}, "and the best again, to be compared with"

    @pytest.mark.parametrize("size", [2, 3, 7, 16])
    def test_it_climbs_above_what_it_started_with(self, size: int) -> None:
        above = 0
        for seed in range(3):
            pool = Pool(size, seed)
            optimizer = make("kinship", pool.problem, seed=0)
            run(optimizer, pool.score, 16)
            (found,) = optimizer.recommend(1)
            three = sorted(range(size), key=lambda n: -pool.score(even(size, [n])))[:3]
            teams = [three[:1], *itertools.combinations(three, 2)]
            best = max(pool.score(even(size, team)) for team in teams)
            assert pool.score(found) >= best, "the first generation"
            above += pool.score(found) > best
        assert above, "merges of merges"

    def test_models_that_are_as_good_as_one_are_not_merged(self) -> None:
        pool = Pool(3, 0)
        pool.vectors = pool.vectors[[0, 0, 0]] + 0.01 * pool.vectors
        optimizer = make("kinship", pool.problem, seed=0)
        asked = run(optimizer, pool.score, 6)
        different = {genome for batch in asked for genome in batch}
        assert len(different) == 3 + 3, "sources and their pairs"

    def test_the_stranger_leads_off_a_plateau(self) -> None:
        """Three near copies lead the ranking; what is missing is in the last."""
        pool = Pool(4, 0)
        pool.goal[:] = [3, 3, 0, 0, 0, 0]
        pool.vectors[:] = 0
        pool.vectors[:3, 0] = [3, 2.9, 2.8]
        pool.vectors[3, 1] = 4.2
        optimizer = make("kinship", pool.problem, seed=0)
        asked = run(optimizer, pool.score, 2)
        assert between(even(4, [0]), even(4, [3]), 0.5) in asked[1]
        assert optimizer.recommend(1) == [between(even(4, [0]), even(4, [3]), 0.5)]
