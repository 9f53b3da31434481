"""Intervals and tests of differences, over suites of every shape."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evomerge.inference.comparison import mcnemar
from evomerge.inference.intervals import jointly
from evomerge.judging.evidence import Bootstrap, PValue, compare
from evomerge.suite.objectives import Objective
from evomerge.suite.suite import Results, Suite

N = 120


class Scorer:
    """Aggregates, and no more."""

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        if metric == "f1":
            return float(np.mean(values)) ** 0.5
        if metric == "bits":
            return float(sum(a for a, _ in values) / sum(b for _, b in values))
        return float(np.mean([value for value in values if value is not None]))


class Shape(Suite):
    """A suite of these objectives whose item ``n`` has source ``n // siblings``."""

    def __init__(
        self, *objectives: Objective, combination: str = "mean", siblings: int = 1
    ) -> None:
        self.spec: Any = SimpleNamespace(combination=combination)
        self.objectives = objectives
        names = {o.scorer for o in objectives if o.scorer}
        self.scorers: Any = {name: Scorer() for name in names}
        self.__dict__["source_of"] = {
            name: {str(n): str(n // siblings) for n in range(N)} for name in names
        }


RIGHT = Objective("right", "a", "acc")
FITTING = Objective("fitting", "b", "acc*in_language", weight=2.0)
BITS = Objective("bits", "c", "bits", maximize=False, scale=0.1)
F1 = Objective("f1", "a", "f1")
WORST = Objective("worst", "", "", of=("right", "fitting"), how="worst")
GAINS = dict.fromkeys(("right", "fitting", "bits", "f1", "worst"), 0.5)


def answers(seed: int, better: float = 0.0) -> Results:
    """Of a model; ``better``: the share of what ``seed`` alone has wrong that is right."""
    draw, rng = np.random.default_rng(0), np.random.default_rng(seed)
    columns = draw.random((3, N)) < 0.5
    columns = columns | (rng.random((3, N)) < better)
    right, fit, off = columns.astype(float)
    metrics: dict[str, dict[str, list[Any]]] = {
        "a": {"acc": right.tolist(), "f1": right.tolist()},
        "b": {"acc": fit.tolist(), "off_language": (1 - off).tolist()},
        "c": {"bits": [[30.0 + n % 9 - 2 * better, 10] for n in range(N)]},
    }
    items = [str(n) for n in range(N)]
    return {
        name: {"items": items, "responses": [""] * N, "metrics": found, "tokens": 0}
        for name, found in metrics.items()
    }


def difference(suite: Suite, ours: Results, theirs: Results, label: str = "") -> PValue:
    references = {"base": suite.values(answers(5)), "chat": suite.values(theirs)}
    return compare(suite, ours, theirs, references, GAINS, ("key",), label=label)


OURS, THEIRS = answers(1, 0.4), answers(2, 0.05)


def test_one_objective_that_is_right_or_wrong_is_tested_exactly() -> None:
    found = difference(Shape(RIGHT), OURS, THEIRS)
    a, b = (np.array(results["a"]["metrics"]["acc"]) for results in (OURS, THEIRS))
    assert found == PValue(mcnemar(int((a > b).sum()), int((a < b).sum())), "McNemar")
    assert difference(Shape(RIGHT, combination="worst"), OURS, THEIRS) == found


def test_siblings_are_no_independent_items() -> None:
    found = difference(Shape(RIGHT, siblings=2), OURS, THEIRS)
    assert found.how == "sign flips" and found.p is not None and 0 < found.p < 0.05


@pytest.mark.parametrize("combination", ["mean", "retention"])
def test_sums_are_tested_by_sign_flips(combination: str) -> None:
    suite = Shape(RIGHT, FITTING, BITS, combination=combination)
    for label in ("", "chat"):
        found = difference(suite, OURS, THEIRS, label)
        assert found.how == "sign flips" and found.p is not None and found.p < 0.01
    assert difference(suite, THEIRS, THEIRS) == PValue(1.0, "sign flips")


@pytest.mark.parametrize(
    "suite",
    [
        Shape(RIGHT, FITTING, combination="worst"),
        Shape(Objective("right", "a", "acc", weight=0.0), FITTING, WORST),
    ],
)
def test_worsts_are_tested_by_swapping_labels(suite: Suite) -> None:
    found = difference(suite, OURS, THEIRS, "chat")
    assert found.how == "label swaps" and found.p is not None and found.p < 0.05
    assert difference(suite, THEIRS, THEIRS, "chat") == PValue(1.0, "label swaps")


def test_of_other_metrics_nothing_is_claimed() -> None:
    assert difference(Shape(RIGHT, F1), OURS, THEIRS) == PValue(
        None, "no test: f1 is no mean and no ratio of sums"
    )
    idle = Objective("f1", "a", "f1", weight=0.0)
    assert difference(Shape(RIGHT, idle), OURS, THEIRS).how == "McNemar", "it does not count"


def test_every_kind_of_objective_has_an_interval() -> None:
    suite = Shape(RIGHT, FITTING, BITS, F1, WORST)
    items = {name: [str(n) for n in range(N)] for name in suite.scorers}
    found = Bootstrap.of(suite, items, seed=0).values(OURS, "ours")
    assert {name: e.value for name, e in found.items()} == pytest.approx(suite.values(OURS))
    for estimate in found.values():
        interval = estimate.interval()
        assert interval.low < interval.value < interval.high


def test_a_score_of_unanimous_shares_is_not_certain() -> None:
    """Of 120 sources that all agree; what is unknown of a model is its own."""
    suite = Shape(RIGHT, FITTING, replace(F1, weight=0.0))
    items = {name: [str(n) for n in range(N)] for name in suite.scorers}
    perfect = answers(1, better=1.0)
    for metrics in (perfect["a"]["metrics"], perfect["b"]["metrics"]):
        metrics.update({name: [float(name != "off_language")] * N for name in metrics})
    bootstrap = Bootstrap.of(suite, items, seed=0)
    one, other = (
        bootstrap.score(bootstrap.values(perfect, model), {}, GAINS) for model in ("one", "other")
    )
    assert one.interval().high == one.value == 1.0
    assert 1 - 4 / N < one.interval().low < 1 - 1 / N
    difference = jointly(operator.sub, one, other).interval()
    assert -4 / N < difference.low < -1 / N and 1 / N < difference.high < 4 / N


def test_objectives_without_weight_leave_the_score_alone() -> None:
    """Here one with values for three sources, too few for an interval of its own."""
    suite = Shape(RIGHT, replace(BITS, weight=0.0))
    items = {name: [str(n) for n in range(N)] for name in suite.scorers}
    ours = answers(1)
    ours["c"]["metrics"]["bits"][3:] = [None] * (N - 3)
    bootstrap = Bootstrap.of(suite, items, seed=0)
    values = bootstrap.values(ours, "ours")
    assert math.isinf(values["bits"].interval().low)
    assert bootstrap.score(values, {}, GAINS).interval() == values["right"].interval()
