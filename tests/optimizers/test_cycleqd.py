from __future__ import annotations

import numpy as np
import pytest

from evomerge.optimizers import Measure, Problem, Told, make
from evomerge.optimizers.cycleqd import CycleQD
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import OptimizerContract

DIMS = tuple(Dim(f"x{axis}", "real") for axis in range(4))
TASKS = ("th", "ifeval")


def told(genome: Genome) -> Told:
    """The first two genes are one task's skill, the last two the other's; they compete a little."""
    one, other = sum(genome[:2]) / 2, sum(genome[2:]) / 2
    values = (one - 0.3 * other**2, other - 0.3 * one**2)
    return Told(genome, sum(values), values)


class TestCycleQD(OptimizerContract):
    optimizer = "cycleqd"

    def test_each_task_takes_its_turn(self) -> None:
        options = {"sigma": 0.0}
        optimizer = make("cycleqd", Problem(DIMS, TASKS), seed=0, options=options)
        one, other = (0.9, 0.9, 0.1, 0.1), (0.1, 0.1, 0.9, 0.9)
        both = [Told(one, 0.0, (1.0, 0.0)), Told(other, 0.0, (0.0, 1.0))]
        optimizer.tell(1, 0, both)
        assert isinstance(optimizer, CycleQD)
        for batch in (2, 3):
            elites = optimizer._grids[batch % 2].members()
            assert elites[0] == both[batch % 2], "its own values are the quality"
        # each is worst in one of quality and measure, best in the other
        assert optimizer._chances(both, 0) == pytest.approx([0.5, 0.5])

    def test_chances_are_products_of_scaled_quality_and_measures(self) -> None:
        optimizer = make("cycleqd", Problem(DIMS, TASKS), seed=0)
        assert isinstance(optimizer, CycleQD)
        rows = [(4.0, 4.0), (2.0, 2.0), (0.0, 0.0)]
        elites = [Told((n / 9,) * 4, 0.0, values) for n, values in enumerate(rows)]
        expected = np.array([1.3**2, 0.9**2, 0.5**2])
        assert optimizer._chances(elites, 0) == pytest.approx(expected / expected.sum())
        missing = Told((0.9,) * 4, 0.0, (9.0, 9.0), violation=0.2)
        assert optimizer._chances([*elites, missing], 0)[3] == 0

    def test_a_child_of_two_is_nearly_their_mean(self) -> None:
        optimizer = make("cycleqd", Problem(DIMS, TASKS), seed=0, options={"sigma": 0.0})
        one, other = (0.0, 0.2, 0.4, 0.6), (1.0, 0.4, 0.4, 0.0)
        optimizer.tell(1, 0, [Told(one, 0.0, (1.0, 0.0)), Told(other, 0.0, (0.0, 1.0))])
        children = np.array([ask.genome for ask in optimizer.ask(200, 2)])
        mixed = [c for c in children if not np.allclose(c, one) and not np.allclose(c, other)]
        assert 60 < len(mixed) < 140, "half of the draws take one parent twice"
        assert np.abs(np.array(mixed) - [0.5, 0.3, 0.4, 0.3]).max() < 0.02
        assert np.std(np.array(mixed)[:, 0]) > 1e-4

    def test_declared_measures_take_the_place_of_other_objectives(self) -> None:
        measures = (Measure("th", 0, 1, 4), Measure("brevity", 0, 100, 4))
        optimizer = make("cycleqd", Problem(DIMS, TASKS, measures), seed=0)
        # same brevity, other ifeval: one cell of th's grid, two of ifeval's, which measures th
        made = [
            Told((0.1,) * 4, 0.1, (0.9, 0.1), measures=(0.9, 10)),
            Told((0.2,) * 4, 0.2, (0.1, 0.8), measures=(0.1, 10)),
        ]
        optimizer.tell(1, 0, made)
        assert isinstance(optimizer, CycleQD)
        assert optimizer._grids[0].members() == made[:1]
        assert optimizer._grids[1].members() == made[::-1]

    def test_it_widens_the_front(self) -> None:
        optimizer = make("cycleqd", Problem(DIMS, TASKS), seed=0)
        start = [told((0.5, 0.5, 0.1, 0.1)), told((0.1, 0.1, 0.5, 0.5))]
        optimizer.tell(1, 0, start)
        for batch in range(2, 60):
            asked = optimizer.ask(optimizer.population, batch)
            optimizer.tell(batch, batch, [told(ask.genome) for ask in asked])
        found = [told(genome) for genome in optimizer.recommend(3)]
        assert found[0].score == max(each.score or 0 for each in found)
        assert (found[0].score or 0) > 1.2, "1.4 is the best there is"
        assert max(each.values[0] for each in found) > 0.75
        assert max(each.values[1] for each in found) > 0.75
