"""Who gets which item right."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.judging.sides import Sides, sides
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Results


def answers(values: list[Any], metric: str = "acc") -> Results:
    items = [f"i{n}" for n in range(len(values))]
    return {"t": {"items": items, "responses": values, "metrics": {metric: values}, "tokens": 0}}


def test_four_sides() -> None:
    found = sides(
        Objective("o", "t", "acc"), answers([1, 1.0, 0, 0, None]), answers([1, 0, 1, 0, 1])
    )
    assert found == Sides(("i0",), ("i1",), ("i2",), ("i3",))


def test_where_less_is_better_zero_is_right() -> None:
    objective = Objective("o", "t", "err", maximize=False)
    found = sides(objective, answers([0, 1], "err"), answers([1, 1], "err"))
    assert found == Sides((), ("i0",), (), ("i1",))


@pytest.mark.parametrize(
    ("objective", "values", "metric"),
    [
        (Objective("o", "t", "acc"), [0.5, 1], "acc"),
        (Objective("o", "t", "acc"), [[1, 2], [3, 4]], "acc"),
        (Objective("o", "t", "length"), [0, 1], "length"),
        (Objective("o", "", "", of=("a", "b"), how="mean"), [0, 1], "acc"),
        (Objective("o", "t", "gone"), [0, 1], "acc"),
    ],
)  # fmt: skip
def test_what_is_not_just_right_or_wrong_has_none(
    objective: Objective, values: list[Any], metric: str
) -> None:
    assert sides(objective, answers(values, metric), answers(values, metric)) is None
