from __future__ import annotations

from collections.abc import Sequence

import pytest

from evomerge.optimizers import make
from evomerge.optimizers.kernel.blends import Blend, between, even
from evomerge.optimizers.model_glue import ModelGlue
from evomerge.testing.blends import Pool, run
from evomerge.testing.optimizers import OptimizerContract


def added(pool: Pool, blends: Sequence[Blend]) -> Blend:
    """The heuristic with a grid of coefficients, one step after the other."""
    best, *rest = sorted(blends, key=pool.score, reverse=True)
    for other in rest:
        trials = [between(best, other, n / 10) for n in range(1, 10)]
        best = max([*trials, best], key=pool.score)
    return best


def clusters(pool: Pool, alike: float) -> list[set[int]]:
    found = [{n} for n in range(pool.size)]
    for a in range(pool.size):
        for b in range(a):
            if pool.cosine(even(pool.size, [a]), even(pool.size, [b])) >= alike:
                one, other = (next(c for c in found if n in c) for n in (a, b))
                if one is not other:
                    found.remove(other)
                    one |= other
    return found


class TestModelGlue(OptimizerContract):
    optimizer = "model_glue"
    learns, draws, pooled = False, False, True

    @pytest.mark.parametrize("size", [2, 3, 6, 16])
    @pytest.mark.parametrize("population", [4, 10])
    def test_it_merges_clusters_then_what_came_of_them(self, size: int, population: int) -> None:
        for seed in range(2):
            pool = Pool(size, seed, groups=3)
            optimizer = make("model_glue", pool.problem, seed=0, population=population)
            run(optimizer, pool.score, 4 * size * 10 // population)
            sources = [even(size, [n]) for n in range(size)]
            found = [[sources[n] for n in cluster] for cluster in clusters(pool, 0.5)]
            assert 1 < len(found) < size or size < 6
            whole = added(pool, [added(pool, cluster) for cluster in found])
            (recommended,) = optimizer.recommend(1)
            assert recommended == pytest.approx(whole)

    def test_links_join_clusters(self) -> None:
        """The first and the last are not alike, but both are like the one between them."""
        pool = Pool(3, 0)
        pool.vectors[:] = 0
        pool.vectors[:, :2] = [[1, 0], [0, 1], [1, 1]]
        optimizer = make("model_glue", pool.problem, seed=0)
        assert isinstance(optimizer, ModelGlue)
        assert [len(cluster) for cluster in optimizer._clusters()] == [3]
        apart = make("model_glue", pool.problem, seed=0, options={"alike": 0.8})
        assert isinstance(apart, ModelGlue)
        assert [len(cluster) for cluster in apart._clusters()] == [1, 1, 1]

    def test_a_batch_of_ten_is_a_step(self) -> None:
        pool = Pool(3, 1)
        optimizer = make("model_glue", pool.problem, seed=0, options={"alike": 0.0})
        asked = run(optimizer, pool.score, 3)
        assert len({genome for batch in asked for genome in batch}) == 3 + 9 + 9
        for batch in asked[1:]:
            assert len(set(batch)) == 10, "the best again, and the grid"

    def test_before_the_end_it_recommends_the_best_told(self) -> None:
        pool = Pool(6, 0)
        optimizer = make("model_glue", pool.problem, seed=0)
        asked = run(optimizer, pool.score, 3)
        best = max((genome for batch in asked for genome in batch), key=pool.score)
        assert optimizer.recommend(1) == [best]

    def test_a_source_that_fails_is_left_out(self) -> None:
        pool = Pool(4, 3)
        optimizer = make("model_glue", pool.problem, seed=0)
        run(optimizer, lambda genome: None if genome[1] else pool.score(genome), 12)
        (found,) = optimizer.recommend(1)
        assert found[1] == 0 and optimizer.recommend(3)
