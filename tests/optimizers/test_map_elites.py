from __future__ import annotations

import pytest

from evomerge.optimizers import Measure, Optimizer, Problem, Told, make
from evomerge.params import Dim, Genome
from evomerge.testing.optimizers import OptimizerContract

PLANE = tuple(Dim(name, "real") for name in "abc")
MEASURES = (Measure("a", 0, 1, 5), Measure("b", 0, 1, 5))


def told(genome: Genome) -> Told:
    """Best where the last gene is .6, on every cell of the first two."""
    return Told(genome, -((genome[2] - 0.6) ** 2), measures=genome[:2])


def run(optimizer: Optimizer, batches: int) -> list[Told]:
    seen = []
    for batch in range(1, batches + 1):
        asked = optimizer.ask(optimizer.population, batch)
        seen.append([told(ask.genome) for ask in asked])
        optimizer.tell(batch, batch, seen[-1])
    return [each for row in seen for each in row]


class TestMapElites(OptimizerContract):
    optimizer = "map_elites"

    def test_it_fills_the_grid_with_elites(self) -> None:
        optimizer = make("map_elites", Problem(PLANE, ("x",), MEASURES), seed=0)
        optimizer.tell(0, 0, [told((0.5, 0.5, 0.1))])
        run(optimizer, 80)
        elites = optimizer.recommend(100)
        cells = {tuple(m.cell(g) for m, g in zip(MEASURES, e, strict=False)) for e in elites}
        assert len(elites) == len(cells) == 25
        assert max(abs(genome[2] - 0.6) for genome in elites) < 0.1, "each cell is improved"

    def test_a_cell_keeps_what_holds_the_floors(self) -> None:
        optimizer = make("map_elites", Problem(PLANE, ("x",), MEASURES), seed=0)
        a, b = (0.1, 0.1, 0.2), (0.1, 0.1, 0.3)
        optimizer.tell(1, 0, [Told(a, 9.0, violation=0.1, measures=(0.1, 0.1))])
        assert optimizer.recommend(1) == [a]
        optimizer.tell(2, 2, [Told(b, -9.0, measures=(0.1, 0.1))])
        assert optimizer.recommend(9) == [b]

    def test_children_lie_on_the_line_between_elites(self) -> None:
        options = {"sigma": 0.0, "line": 0.1}
        optimizer = make("map_elites", Problem(PLANE, (), MEASURES), seed=0, options=options)
        optimizer.tell(1, 0, [told((0.2, 0.3, 0.4)), told((0.8, 0.6, 0.7))])
        children = [ask.genome for ask in optimizer.ask(60, 2)]
        along = [(a - 0.2) / 0.6 for a, _, _ in children]
        assert [b for _, b, _ in children] == pytest.approx([0.3 + 0.3 * t for t in along])
        assert len(set(along)) > 20

    def test_the_objectives_are_the_measures_where_none_is_declared(self) -> None:
        optimizer = make("map_elites", Problem(PLANE, ("x", "y")), seed=0, options={"cells": 2})
        points = [
            (0.1, 0.0, 0.0),
            (0.2, 9.0, 0.0),
            (0.3, 0.0, 5.0),
            (0.4, 9.0, 5.0),
            (0.5, 8.0, 4.0),
        ]
        for score, x, y in points:
            optimizer.tell(1, 0, [Told((score, 0.5, 0.5), score, (x, y))])
        assert {genome[0] for genome in optimizer.recommend(9)} == {0.1, 0.2, 0.3, 0.5}
