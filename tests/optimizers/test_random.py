from __future__ import annotations

from evomerge.optimizers import Problem, Told, make
from evomerge.testing.optimizers import REAL, OptimizerContract


class TestRandom(OptimizerContract):
    optimizer = "random"
    learns = False

    def test_it_recommends_the_best_point_told(self) -> None:
        optimizer = make("random", Problem(REAL), seed=0)
        scores = {0.1: 1.0, 0.2: 3.0, 0.3: None}
        optimizer.tell(1, 0, [Told((gene,) * 3, score) for gene, score in scores.items()])
        optimizer.tell(2, 2, [Told((0.4,) * 3, 2.0), Told((0.5,) * 3, 9.0, violation=0.1)])
        assert optimizer.recommend(2) == [(0.2, 0.2, 0.2)]

    def test_it_is_uniform(self) -> None:
        genomes = make("random", Problem(REAL), seed=0).ask(4000, 0)
        for axis in range(len(REAL)):
            genes = sorted(ask.genome[axis] for ask in genomes)
            # Kolmogorov-Smirnov at about 1e-6
            assert max(abs(gene - i / 4000) for i, gene in enumerate(genes)) < 0.042
