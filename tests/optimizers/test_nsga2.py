from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge import seeds
from evomerge.optimizers import Optimizer, Problem, Told, cell, make
from evomerge.optimizers.pareto.fronts import crowding, fronts, spread
from evomerge.optimizers.pareto.variation import child, crossover, mutation
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import MIXED, REAL, OptimizerContract

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "pymoo.json").read_text(encoding="utf-8")
)
FOUR = tuple(Dim(f"x{axis}", "real") for axis in range(4))


def valley(genome: Genome) -> tuple[float, float]:
    """The front is where the first gene is free and all others are 0.3."""
    away = sum((gene - 0.3) ** 2 for gene in genome[1:])
    return -genome[0] - away, -((1 - genome[0] ** 0.5) ** 2) - away


def run(optimizer: Optimizer, batches: int) -> None:
    for batch in range(2, 2 + batches):
        told = []
        for ask in optimizer.ask(optimizer.population, batch):
            values = valley(ask.genome)
            told.append(Told(ask.genome, sum(values), values, (0.0, 0.0)))
        optimizer.tell(batch, batch, told)


class TestNSGA2(OptimizerContract):
    optimizer = "nsga2"

    def test_what_it_recommends_spreads_over_the_front(self) -> None:
        optimizer = make(self.optimizer, Problem(FOUR, ("a", "b")), seed=0)
        run(optimizer, 30)
        found = optimizer.recommend(16)
        assert len(found) == 16
        assert max(abs(gene - 0.3) for genome in found for gene in genome[1:]) < 0.12
        shares = sorted(genome[0] for genome in found)
        assert shares[0] < 0.05 and shares[-1] > 0.9
        assert max(np.diff(shares)) < 0.25

    def test_members_hold_the_floor(self) -> None:
        """The floor excludes what scores best; without any that hold it, the nearest is recommended."""
        optimizer = make(self.optimizer, Problem(FOUR, ("a", "b")), seed=0)
        missed = [Told((g,) * 4, 1 - g, (1 - g, g), (0.0, 0.0), violation=g) for g in (0.9, 0.5)]
        optimizer.tell(1, 0, missed)
        assert optimizer.recommend(3) == [(0.5,) * 4]
        for batch in range(2, 22):
            told = []
            for ask in optimizer.ask(optimizer.population, batch):
                values = valley(ask.genome)
                violation = max(0.0, 0.4 - ask.genome[0])
                told.append(Told(ask.genome, sum(values), values, (0.0, 0.0), violation))
            optimizer.tell(batch, batch, told)
        found = optimizer.recommend(6)
        assert len(found) == 6
        assert all(genome[0] >= 0.4 for genome in found)
        assert min(genome[0] for genome in found) < 0.45

    def test_the_newest_telling_of_a_genome_counts(self) -> None:
        optimizer = make(self.optimizer, Problem(FOUR, ("a",)), seed=0)
        lucky, plain = (0.1,) * 4, (0.2,) * 4
        optimizer.tell(1, 0, [Told(lucky, 9.0, (9.0,)), Told(plain, 1.0, (1.0,))])
        assert optimizer.recommend(1) == [lucky]
        optimizer.tell(2, 0, [Told(lucky, 0.0, (0.0,))])
        assert optimizer.recommend(1) == [plain]

    def test_without_objectives_the_score_is_the_only_one(self) -> None:
        optimizer = make(self.optimizer, Problem(FOUR), seed=0)
        for batch in range(2, 22):
            asks = optimizer.ask(optimizer.population, batch)
            told = [Told(a.genome, -sum((g - 0.7) ** 2 for g in a.genome)) for a in asks]
            optimizer.tell(batch, batch, told)
        (found,) = optimizer.recommend(4)[:1]
        assert max(abs(gene - 0.7) for gene in found) < 0.15


def test_crossover_is_that_of_pymoo() -> None:
    case = {key: np.array(value) for key, value in GOLDEN["crossover"].items()}
    near, far = crossover(case["one"], case["other"], case["uniform"])
    assert np.sort([near, far], axis=0) == pytest.approx(
        np.sort(case["children"], axis=0), abs=1e-12
    )
    middle = (case["one"] + case["other"]) / 2
    nearer = np.abs(near - case["one"]) <= np.abs(far - case["one"])
    assert nearer.all() and (np.sign(near - middle) == np.sign(case["one"] - middle)).all()


def test_mutation_is_that_of_pymoo() -> None:
    case = {key: np.array(value) for key, value in GOLDEN["mutation"].items()}
    assert mutation(case["genes"], case["uniform"]) == pytest.approx(case["mutants"], abs=1e-12)


def test_fronts_are_those_of_pymoo() -> None:
    found = fronts(np.array(GOLDEN["fronts"]["points"]))
    assert [sorted(front) for front in found] == GOLDEN["fronts"]["fronts"]


def test_crowding_is_that_of_pymoo() -> None:
    wanted = [np.inf if d is None else d for d in GOLDEN["crowding"]["distances"]]
    assert crowding(np.array(GOLDEN["crowding"]["points"])) == pytest.approx(wanted)
    assert 2 <= np.isinf(wanted).sum() < len(wanted)


def test_equals_share_a_front() -> None:
    assert fronts(np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 2.0]])) == [[0, 1], [2]]


def test_the_farthest_come_first() -> None:
    points = np.array([[0, 1000], [1, 990], [5, 500], [10, 0]], dtype=float)
    assert spread(points, 0, 3) == [0, 3, 2]


def test_children_take_options_from_parents_and_leave_cells() -> None:
    one, other = (0.2, 0.1, 0.125, 0.9, 0.5), (0.8, 0.9, 0.875, 0.1, 0.5)
    children = [child(MIXED, one, other, seeds.generator("child", n)) for n in range(2000)]
    assert one not in children, "a copy would be scored twice"
    options = np.bincount([cell(MIXED[2], genome[2]) for genome in children], minlength=4)
    assert options[0] + options[3] > 1500 and options[1] > 20 and options[2] > 20
    assert len({genome[1] for genome in children}) >= 4, "0.3 and 0.7 are mutants"
    twins = [child(MIXED, one, one, seeds.generator("twin", n)) for n in range(500)]
    assert one not in twins
    assert len({child(REAL, (0.5,) * 3, (0.5,) * 3, seeds.generator(n)) for n in range(50)}) == 50
