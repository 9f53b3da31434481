from __future__ import annotations

from collections import Counter

from scipy.stats import qmc

from evomerge.optimizers import Problem, make
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import REAL, OptimizerContract


def drawn(name: str, problem: Problem, batches: int, seed: int = 0) -> list[Genome]:
    optimizer = make(name, problem, seed=seed, population=16)
    return [ask.genome for batch in range(2, 2 + batches) for ask in optimizer.ask(16, batch)]


class TestSobol(OptimizerContract):
    optimizer = "sobol"
    learns = False

    def test_a_batch_meets_every_sixteenth_of_every_axis(self) -> None:
        for batch in range(5):
            asks = make("sobol", Problem(REAL), seed=3, population=16).ask(16, batch)
            for axis in range(len(REAL)):
                assert sorted(int(16 * ask.genome[axis]) for ask in asks) == list(range(16))

    def test_batches_fill_each_others_gaps(self) -> None:
        for seed in range(3):
            sobol = drawn("sobol", Problem(REAL), 16, seed)
            uniform = drawn("random", Problem(REAL), 16, seed)
            assert len(set(sobol)) == 256
            assert qmc.discrepancy(sobol) < 0.2 * qmc.discrepancy(uniform)

    def test_every_option_gets_its_share(self) -> None:
        dims = (Dim("method", "categorical", 4), Dim("topk", "integer", 8))
        genomes = drawn("sobol", Problem(dims), 4)
        assert set(Counter(genome[0] for genome in genomes).values()) == {16}
        assert set(Counter(genome[1] for genome in genomes).values()) == {8}

    def test_what_is_asked_beyond_a_population_belongs_to_no_other_batch(self) -> None:
        optimizer = make("sobol", Problem(REAL), seed=0, population=16)
        both = [ask.genome for batch in (4, 5) for ask in optimizer.ask(40, batch)]
        assert len(set(both)) == 80
        assert optimizer.ask(40, 4)[:16] == optimizer.ask(16, 4)
