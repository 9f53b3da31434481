from __future__ import annotations

from collections.abc import Sequence

import optuna
import pytest

from evomerge.optimizers import Optimizer, Problem, Told, make
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import DISCRETE, MIXED, OBJECTIVES, REAL, OptimizerContract


class TestTPE(OptimizerContract):
    optimizer = "optuna"

    def test_known_recipes_count_toward_startup(self) -> None:
        told = [(i / 10, 0.3, 0.3) for i in range(5)]
        drawn = {}
        for startup in (5, 6):
            optimizer = make("optuna", Problem(REAL), seed=0, options={"startup": startup})
            optimizer.tell(1, 0, [Told(genome, -abs(genome[0] - 0.3)) for genome in told])
            drawn[startup] = optimizer.ask(4, 1)
        untold = make("optuna", Problem(REAL), seed=0, options={"startup": 6}).ask(4, 1)
        assert drawn[6] == untold != drawn[5]

    def test_points_of_a_batch_keep_apart(self) -> None:
        optimizer = make("optuna", Problem((Dim("a", "real"),)), seed=0)
        told = [(i / 20,) for i in range(20)]
        optimizer.tell(1, 0, [Told((gene,), -abs(gene - 0.3)) for (gene,) in told])
        genes = [ask.genome[0] for ask in optimizer.ask(8, 1)]
        assert len(set(genes)) == 8

    def test_failures_are_avoided(self) -> None:
        optimizer = make("optuna", Problem((Dim("a", "real"),)), seed=0)
        told = [(i / 40,) for i in range(40)]
        optimizer.tell(
            1, 0, [Told((gene,), None if gene > 0.5 else gene % 0.1) for (gene,) in told]
        )
        genes = [optimizer.ask(1, batch)[0].genome[0] for batch in range(20)]
        assert sum(gene > 0.5 for gene in genes) <= 4

    def test_what_misses_a_floor_is_avoided(self) -> None:
        optimizer = make("optuna", Problem((Dim("a", "real"),)), seed=0)
        told = [Told((i / 40,), i / 40, violation=max(0.0, i / 40 - 0.5)) for i in range(40)]
        optimizer.tell(1, 0, told)
        genes = [optimizer.ask(1, batch)[0].genome[0] for batch in range(20)]
        assert sum(gene > 0.55 for gene in genes) <= 4
        assert sum(0.3 < gene <= 0.55 for gene in genes) >= 12

    def test_it_does_not_touch_the_callers_logging(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.DEBUG)
        try:
            make("optuna", Problem(MIXED), seed=0).ask(2, 0)
            assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
        finally:
            optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.mark.slow
class TestGaussianProcess(OptimizerContract):
    """Small batches, a start of uniform draws, few spaces: a point of the model takes a tenth of a second."""

    optimizer = "optuna"
    options = {"sampler": "gp", "startup": 10}  # noqa: RUF012
    learns = False  # it does, and says so below in fewer evaluations

    @pytest.fixture(params=[DISCRETE], ids=["discrete"])
    def dims(self, request: pytest.FixtureRequest) -> tuple[Dim, ...]:
        dims: tuple[Dim, ...] = request.param
        return dims

    def make(self, dims: Sequence[Dim] = REAL, seed: int = 0) -> Optimizer:
        problem = Problem(tuple(dims), OBJECTIVES)
        return make("optuna", problem, seed=seed, population=3, options=self.options)

    def test_it_finds_the_top_in_few_evaluations(self) -> None:
        optimizer = self.make()
        for batch in range(2, 12):
            asks = optimizer.ask(3, batch)
            optimizer.tell(batch, batch, [Told(ask.genome, -distance(ask.genome)) for ask in asks])
        assert distance(optimizer.recommend(1)[0]) < 0.005

    def test_failures_are_no_cliff(self) -> None:
        optimizer = self.make()
        for batch in range(2, 12):
            told = []
            for ask in optimizer.ask(3, batch):
                score = None if ask.genome[0] > 0.75 else -distance(ask.genome)
                told.append(Told(ask.genome, score))
            optimizer.tell(batch, batch, told)
        assert distance(optimizer.recommend(1)[0]) < 0.02


class TestFront(OptimizerContract):
    optimizer = "optuna"
    options = {"aim": "front"}  # noqa: RUF012
    learns = False  # not the score

    def test_the_front_is_covered(self) -> None:
        """Both objectives are drawn towards their own end, and the middle between them is found."""
        optimizer = make("optuna", Problem(REAL, ("a", "b")), seed=0, options=self.options)
        for batch in range(2, 12):
            told = []
            for ask in optimizer.ask(12, batch):
                x, y, z = ask.genome
                away = (y - 0.5) ** 2 + (z - 0.5) ** 2
                told.append(Told(ask.genome, 0.0, (-(x**2) - away, -((1 - x) ** 2) - away)))
            optimizer.tell(batch, batch, told)
        found = sorted(optimizer.recommend(6))
        assert len(found) == 6
        assert found[0][0] < 0.25 and found[-1][0] > 0.75
        assert all(abs(gene - 0.5) < 0.35 for genome in found for gene in genome[1:])


def distance(genome: Genome) -> float:
    return sum((gene - 0.6) ** 2 for gene in genome)
