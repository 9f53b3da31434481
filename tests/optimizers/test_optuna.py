from __future__ import annotations

import optuna

from evomerge.optimizers import Problem, Told, make
from evomerge.params import Dim
from evomerge.testing.optimizers import MIXED, REAL, OptimizerContract


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

    def test_it_does_not_touch_the_callers_logging(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.DEBUG)
        try:
            make("optuna", Problem(MIXED), seed=0).ask(2, 0)
            assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
        finally:
            optuna.logging.set_verbosity(optuna.logging.INFO)
