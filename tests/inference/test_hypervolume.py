from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.inference.hypervolume import hypervolume

Points = list[tuple[float, ...]]


def by_inclusion(points: Points) -> float:
    """Inclusion and exclusion over all subsets of boxes from the origin."""
    return sum(
        (-1) ** (size + 1) * math.prod(map(min, zip(*chosen, strict=True)))
        for size in range(1, len(points) + 1)
        for chosen in itertools.combinations(points, size)
    )


@st.composite
def clouds(draw: st.DrawFn) -> Points:
    objectives = draw(st.integers(1, 5))
    number = st.integers(1, 6).map(float)
    return draw(st.lists(st.tuples(*[number] * objectives), min_size=1, max_size=7))


@given(points=clouds(), order=st.randoms(use_true_random=False))
def test_it_is_the_volume_of_the_union(points: Points, order: random.Random) -> None:
    origin = (0.0,) * len(points[0])
    assert hypervolume(points, origin) == pytest.approx(by_inclusion(points))
    assert hypervolume(order.sample(points, len(points)), origin) == hypervolume(points, origin)


def test_by_hand() -> None:
    assert hypervolume([], (0.0, 0.0)) == 0
    assert hypervolume([(3, 1), (1, 3), (2, 2), (1, 1)], (0, 0)) == 6
    assert hypervolume([(3, 1), (1, 3)], (1, 1)) == 0, "nothing exceeds it everywhere"
    assert hypervolume([(-1.0, -2.0)], (-2.0, -4.0)) == 2
    with pytest.raises(ValueError):
        hypervolume([(1.0, 2.0)], (0.0,))


@given(points=clouds(), more=st.floats(0.1, 3))
def test_it_grows_with_what_is_not_dominated_alone(points: Points, more: float) -> None:
    origin = (0.0,) * len(points[0])
    whole = hypervolume(points, origin)
    assert hypervolume([*points, points[0]], origin) == whole
    top = tuple(max(column) + more for column in zip(*points, strict=True))
    assert hypervolume([*points, top], origin) == pytest.approx(math.prod(top))


def test_a_front_of_five_objectives_on_the_unit_sphere() -> None:
    draw = random.Random(0)
    points = []
    for _ in range(60):
        raw = [abs(draw.gauss(0, 1)) for _ in range(5)]
        points.append(tuple(value / math.hypot(*raw) for value in raw))
    found = hypervolume(points, (0.0,) * 5)
    inside = sum(
        any(all(a >= b for a, b in zip(point, at, strict=True)) for point in points)
        for at in ([draw.random() for _ in range(5)] for _ in range(20_000))
    )
    assert found == pytest.approx(inside / 20_000, abs=0.01)
