"""The hypervolume, against known values, a grid, and its laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.inference.hypervolume import hypervolume

POINTS = st.integers(1, 4).flatmap(
    lambda m: st.lists(st.tuples(*[st.integers(-1, 4)] * m), min_size=1, max_size=6)
)


def test_known_volumes() -> None:
    assert hypervolume([], (0, 0)) == 0
    assert hypervolume([(2, 3)], (0, 0)) == 6
    assert hypervolume([(2, 3)], (1, 1)) == 2
    assert hypervolume([(3, 1), (2, 2), (1, 3)], (0, 0)) == 6
    assert hypervolume([(1, 1, 1), (2, 0.5, 1)], (0, 0, 0)) == pytest.approx(1.5)
    assert hypervolume([(5, 0), (0, 5), (5, -1)], (0, 0)) == 0, "the axes have no volume"


@given(POINTS)
def test_it_is_the_number_of_dominated_cells_of_a_grid(points: list[tuple[int, ...]]) -> None:
    axes = [range(5)] * len(points[0])
    cells = sum(
        any(all(c < v for c, v in zip(cell, p, strict=True)) for p in points)
        for cell in itertools.product(*axes)
    )
    assert hypervolume(points, (0,) * len(points[0])) == pytest.approx(cells)


@given(POINTS)
def test_more_points_never_shrink_it_and_order_does_not_matter(
    points: list[tuple[int, ...]],
) -> None:
    zero = (0,) * len(points[0])
    whole = hypervolume(points, zero)
    assert whole == pytest.approx(hypervolume(points[::-1], zero))
    assert whole >= hypervolume(points[1:], zero) - 1e-9


def test_a_front_of_a_report_takes_no_time_to_speak_of() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((12, 4))
    drawn = rng.random((200_000, 4))
    share = np.mean([(drawn <= p).all(1) for p in points], axis=0)  # how many dominate each draw
    assert hypervolume(points.tolist(), (0,) * 4) == pytest.approx((share > 0).mean(), abs=0.01)
