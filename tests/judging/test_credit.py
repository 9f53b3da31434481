"""What an answer is worth does not depend on the metric's direction, scale or shape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.judging.credit import Credit
from evomerge.suite.objectives import Objective

IDS = ["a", "b", "c"]


def results(**metrics: list[Any]) -> Any:
    return {"task": {"items": IDS, "responses": [], "metrics": metrics, "tokens": 0}}


def credit(objective: Objective, rows: list[list[Any]], asked: list[Any]) -> dict[str, float]:
    suite: Any = SimpleNamespace(objectives=(objective,))
    known = [results(**{objective.metric: row}) for row in rows]
    return Credit(suite, known).of(results(**{objective.metric: asked}))[objective.name]


def test_shares_are_their_own_worth() -> None:
    acc = Objective("acc", "task", "acc")
    assert credit(acc, [[1, 0, 1.0], [0, 0, 1]], [1, False, 0.5]) == {"a": 1, "b": 0, "c": 0.5}
    cut = Objective("cut", "task", "truncated", maximize=False)
    assert credit(cut, [[1, 0, None]], [1, 0, None]) == {"a": 0, "b": 1}


def test_other_numbers_lie_between_base_and_parents() -> None:
    length = Objective("brevity", "task", "length", maximize=False)
    rows = [[10, 1, 5], [30, 1, 5]]
    assert credit(length, rows, [10, 1, 4]) == {"a": 0.75, "b": 0.5, "c": 0.75}
    assert credit(length, rows, [20, 0, 6]) == {"a": 0.5, "b": 0.75, "c": 0.25}
    assert credit(length, rows, [1000, 1, 5])["a"] == 0 == 1 - credit(length, rows, [0, 1, 5])["a"]
    margin = Objective("margin", "task", "margin")  # may be 0 or 1 and is no share
    assert credit(margin, [[0, 1, 0], [1, 0, 1]], [0, 0, 2]) == {"a": 0.25, "b": 0.25, "c": 1}


def test_ratios_are_numbers() -> None:
    bits = Objective("bits", "task", "bits", maximize=False)
    found = credit(
        bits, [[[8, 4], [2, 1], [1, 1]], [[4, 4], [4, 1], [1, 1]]], [[4, 4], [3, 1], [0, 0]]
    )
    assert found == {"a": 0.75, "b": pytest.approx(0.5)}


def test_what_counts_is_what_enters_the_score() -> None:
    a, b = Objective("a", "task", "x", weight=0), Objective("b", "task", "x", weight=0)
    worst = Objective("worst", "", "", of=("b",), how="worst")
    suite: Any = SimpleNamespace(objectives=(a, b, worst))
    assert Credit(suite, [results(x=[1, 1, 1])]).of(results(x=[0, 1, 1])) == {
        "b": {"a": 0, "b": 1, "c": 1}
    }
