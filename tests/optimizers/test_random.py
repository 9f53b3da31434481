from __future__ import annotations

from evomerge.optimizers import make
from evomerge.testing.optimizers import REAL, OptimizerContract


class TestRandom(OptimizerContract):
    optimizer = "random"
    learns = False

    def test_it_recommends_the_best_point_told(self) -> None:
        optimizer = make("random", REAL, seed=0)
        optimizer.tell([(0.1, 0.1, 0.1), (0.2, 0.2, 0.2), (0.3, 0.3, 0.3)], [1.0, 3.0, None])
        optimizer.tell([(0.4, 0.4, 0.4)], [2.0])
        assert optimizer.recommend() == (0.2, 0.2, 0.2)

    def test_it_is_uniform(self) -> None:
        genomes = make("random", REAL, seed=0).ask(4000, 0)
        for axis in range(len(REAL)):
            genes = sorted(genome[axis] for genome in genomes)
            # Kolmogorov-Smirnov at about 1e-6
            assert max(abs(gene - i / 4000) for i, gene in enumerate(genes)) < 0.042
