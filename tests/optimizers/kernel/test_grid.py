from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from evomerge.optimizers import Measure
from evomerge.optimizers.kernel.grid import Grid, Open

Point = tuple[float, float, float]  # a score and two measures
rows = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 3), unique=True, max_size=15)


def grid(*axes: Measure | Open) -> Grid[Point]:
    return Grid(axes, lambda row: row[1:][: len(axes)], lambda row: (-row[0], row))


def test_a_cell_keeps_its_best() -> None:
    archive = grid(Measure("length", 0.0, 10.0, 5))
    made = [(0.1, 1.0), (0.3, 1.9), (0.2, 0.5), (0.0, 99.0), (0.5, -1.0)]
    taken = [archive.add((score, at, 0.0)) for score, at in made]
    assert taken == [True, True, False, True, True]
    assert archive.members() == [(0.5, -1.0, 0.0), (0.0, 99.0, 0.0)]


@given(added=rows, order=st.randoms(use_true_random=False))
def test_the_order_of_adding_changes_nothing(added: list[Point], order: random.Random) -> None:
    one, other = (grid(Measure("a", 0, 6, 3), Measure("b", 0, 6, 3)) for _ in range(2))
    for row in added:
        one.add(row)
    for row in order.sample(added, len(added)):
        other.add(row)
    assert one.members() == other.members()
    cells = {(min(int(a // 2), 2), min(int(b // 2), 2)) for _, a, b in added}
    assert len(one.members()) == len(cells)


@given(added=rows)
def test_an_open_axis_spans_its_members(added: list[Point]) -> None:
    archive = grid(Open(4), Open(4))
    for row in added:
        before = archive.members()
        assert archive.add(row) == (row in archive.members()) or archive.members() == before
    if added:
        assert archive.members()[0][0] == max(score for score, _, _ in added), "the best stays"
        lone = grid(Open(100))
        for row in added:
            lone.add(row)
        assert {a for _, a, _ in lone.members()} == {a for _, a, _ in added}


def test_an_axis_that_grows_makes_neighbours_of_a_cell() -> None:
    archive = grid(Open(2))
    assert archive.add((1.0, 0.0, 0.0)) and archive.add((2.0, 1.0, 0.0))
    assert len(archive.members()) == 2
    assert archive.add((0.0, 100.0, 0.0))
    assert archive.members() == [(2.0, 1.0, 0.0), (0.0, 100.0, 0.0)]
