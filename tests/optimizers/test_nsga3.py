from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge import seeds
from evomerge.optimizers import Problem, Told, make
from evomerge.optimizers.nsga3 import directions, fill, nearest, scaled
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import OptimizerContract

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "pymoo.json").read_text(encoding="utf-8")
)
FIVE = tuple(Dim(f"x{axis}", "real") for axis in range(5))


def sphere(genome: Genome) -> tuple[float, float, float]:
    """An eighth of a sphere (DTLZ2), whose objectives have scales of 1, 10 and 100."""
    a, b = (gene * math.pi / 2 for gene in genome[:2])
    radius = 1 + sum((gene - 0.5) ** 2 for gene in genome[2:])
    return (
        -radius * math.cos(a) * math.cos(b),
        -10 * radius * math.cos(a) * math.sin(b),
        -100 * radius * math.sin(a),
    )


class TestNSGA3(OptimizerContract):
    optimizer = "nsga3"

    def test_members_lie_along_the_directions_whatever_the_scales(self) -> None:
        optimizer = make("nsga3", Problem(FIVE, ("a", "b", "c")), seed=0)
        for batch in range(2, 32):
            told = []
            for ask in optimizer.ask(optimizer.population, batch):
                values = sphere(ask.genome)
                told.append(Told(ask.genome, sum(values), values, (0.0,) * 3))
            optimizer.tell(batch, batch, told)
        found = np.array([sphere(genome) for genome in optimizer.recommend(32)]) / [-1, -10, -100]
        assert len(found) > 20
        assert np.median(np.linalg.norm(found, axis=1)) < 1.05
        rays = directions(3, 32)
        niches, distances = nearest(found, rays)
        assert len(set(niches)) > 0.65 * len(rays)
        assert np.median(distances) < 0.1


@pytest.mark.parametrize("case", list(GOLDEN["directions"]))
def test_directions_are_those_of_pymoo(case: str) -> None:
    objectives, most = map(int, case.split(","))
    wanted = np.array(GOLDEN["directions"][case])
    found = directions(objectives, most)
    assert np.array(sorted(found.round(9).tolist())) == pytest.approx(
        np.array(sorted(wanted.round(9).tolist()))
    )


def test_there_are_directions_for_any_number() -> None:
    assert directions(1, 9).tolist() == [[1.0]]
    assert len(directions(8, 5)) == 8, "one an objective at least"
    for objectives in range(2, 6):
        assert len(directions(objectives, 32)) <= 32


def test_niches_are_those_of_pymoo() -> None:
    case = GOLDEN["niches"]
    losses, rays = np.array(case["losses"]), directions(3, 10)
    order = [rays.round(6).tolist().index(row) for row in _pymoo_rays().round(6).tolist()]
    niches, distances = nearest(scaled(losses, losses), rays)
    assert niches.tolist() == [order[niche] for niche in case["niches"]]
    assert distances == pytest.approx(case["distances"], abs=1e-9)


def _pymoo_rays() -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(GOLDEN["directions"]["3,10"])


def test_extremes_without_a_plane_fall_back_to_the_front() -> None:
    losses = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]])
    assert np.isfinite(scaled(losses, losses[:2])).all()
    assert scaled(losses, losses[:2])[:2].tolist() == [[0, 0], [0, 0]]


def test_empty_niches_fill_first_and_by_the_nearest() -> None:
    niches = np.array([0, 0, 1, 1, 1, 2])
    distances = np.array([0.3, 0.1, 0.5, 0.2, 0.4, 0.9])
    chosen = fill(niches, distances, np.array([0, 0, 1]), 2, seeds.generator("fill"))
    assert sorted(chosen) == [1, 3]
    chosen = fill(niches, distances, np.array([0, 0, 1]), 5, seeds.generator("fill"))
    assert sorted(niches[chosen].tolist()) == [0, 0, 1, 1, 2]
