"""The estimators on real responses: what `python -m evomerge.testing.matrix` claims, in short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evomerge import estimators
from evomerge.testing.matrix import Matrix, Trial, needed, run, samples, table

GOLDEN = Path(__file__).parents[1] / "golden" / "matrix.npz"
COUNT, DRAWS = 40, 60  # two per cent of the items


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    """A fifth of the candidates."""
    every = Matrix.load(GOLDEN)
    candidates, items = every.responses.shape
    assert candidates >= 300
    assert items >= 1500
    return replace(every, responses=every.responses[::5], margins=every.margins[::5])


def outcome(matrix: Matrix, name: str) -> Trial:
    drawn = samples(matrix, COUNT, DRAWS, stratified=True)
    return run(matrix, estimators.get(name).fit(matrix.known), drawn)


def test_the_default_needs_a_third_of_the_items_and_says_how_sure_it_is(matrix: Matrix) -> None:
    found = outcome(matrix, estimators.DEFAULT)
    for group in ("all", "better"):
        which = matrix.groups[group]
        figures = found.summary(matrix.truth, which)
        assert needed(matrix, figures["rmse"], which) > 3 * COUNT
        assert 0.92 < figures["coverage"] < 0.99
        assert 0.92 < figures["gap coverage"] < 0.99


def test_the_table_has_a_row_for_every_estimator_group_and_share(matrix: Matrix) -> None:
    rows = [line for line in table(matrix, ["mean", "anchors plain"], 2) if line.startswith("| ")]
    assert len(rows) == 2 * 3 * 4
