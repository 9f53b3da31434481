from __future__ import annotations

import pytest

from evomerge.errors import InputError
from evomerge.optimizers import Problem, Told, make
from evomerge.optimizers.kernel.blends import even
from evomerge.params import Genome
from evomerge.testing.blends import Pool, run
from evomerge.testing.optimizers import REAL, OptimizerContract


def soup_of(pool: Pool) -> Genome:
    """Recipe 1 of the paper, one step after the other."""
    order = sorted(range(pool.size), key=lambda n: -pool.score(even(pool.size, [n])))
    soup: list[int] = []
    for ingredient in order:
        trial = [*soup, ingredient]
        old, new = (pool.score(even(pool.size, s)) if s else -1e9 for s in (soup, trial))
        soup = trial if new >= old else soup
    return even(pool.size, soup)


class TestGreedySoup(OptimizerContract):
    optimizer = "greedy_soup"
    learns, draws, pooled = False, False, True

    @pytest.mark.parametrize("size", [2, 3, 5, 8, 16])
    @pytest.mark.parametrize("population", [2, 3, 8])
    def test_it_makes_the_soup_of_the_paper(self, size: int, population: int) -> None:
        for seed in range(3):
            pool = Pool(size, seed)
            optimizer = make("greedy_soup", pool.problem, seed=0, population=population)
            run(optimizer, pool.score, 2 * size)
            assert optimizer.recommend(1) == [soup_of(pool)]

    def test_a_batch_of_eight_takes_three_steps(self) -> None:
        pool = Pool(8, 1)
        optimizer = make("greedy_soup", pool.problem, seed=0)
        run(optimizer, pool.score, 1 + 3)  # the sources, then seven steps
        assert optimizer.recommend(1) == [soup_of(pool)]

    def test_a_step_is_judged_by_the_items_of_its_batch(self) -> None:
        """A lucky or unlucky draw of items moves a whole batch and no decision."""
        pool = Pool(8, 2)
        optimizer = make("greedy_soup", pool.problem, seed=0)
        for batch in range(2, 8):
            asked = [ask.genome for ask in optimizer.ask(8, batch)]
            luck = 50.0 * (-1) ** batch * batch
            optimizer.tell(batch, batch, [Told(g, pool.score(g) + luck) for g in asked])
        assert optimizer.recommend(1) == [soup_of(pool)]

    def test_later_news_changes_no_decision(self) -> None:
        pool = Pool(5, 0)
        optimizer = make("greedy_soup", pool.problem, seed=0)
        run(optimizer, pool.score, 6)
        before = optimizer.recommend(1)
        told = [Told(genome, 99.0) for genome in (even(5, [3]), even(5, [0, 3]))]
        optimizer.tell(20, 19, told)
        assert optimizer.recommend(1) == before
        assert len(optimizer.recommend(4)) == 4

    def test_a_source_that_fails_is_no_ingredient(self) -> None:
        pool = Pool(4, 3)
        optimizer = make("greedy_soup", pool.problem, seed=0)
        run(optimizer, lambda genome: None if genome[1] else pool.score(genome), 6)
        (found,) = optimizer.recommend(1)
        assert found[1] == 0

    def test_a_space_without_averages_is_refused(self) -> None:
        def blend(weights: object) -> None:
            return None

        with pytest.raises(InputError, match="expected at least two, found 0"):
            make("greedy_soup", Problem(REAL), seed=0)
        with pytest.raises(InputError, match=r"weights a 1; expected methods: \[linear\]"):
            make("greedy_soup", Problem(REAL, sources=("a", "b"), blend=blend), seed=0)
