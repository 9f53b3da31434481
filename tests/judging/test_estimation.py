from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evomerge.judging.estimation import Estimation, spread
from evomerge.suite.objectives import Objective, Values
from evomerge.suite.suite import Suite

COUNT = 120
IDS = [f"q{n}" for n in range(COUNT)]
SAMPLE = IDS[1::4]

mean = Objective("mean", "task", "acc")
ratio = Objective("ratio", "task", "bits", maximize=False)


class Task:
    """Aggregates as told."""

    def __init__(self, aggregate: Callable[[Sequence[Any]], float]) -> None:
        self._aggregate = aggregate

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        known = [value for value in values if value is not None]
        if metric == "bits":
            return sum(v[0] for v in known) / sum(v[1] for v in known) / math.log(2)
        return self._aggregate(known)


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def suite_of(
    *objectives: Objective,
    estimator: str = "regression",
    anchors: dict[str, float] | None = None,
    aggregate: Callable[[Sequence[Any]], float] = average,
) -> Any:
    suite = SimpleNamespace(
        objectives=objectives,
        measured=[o for o in objectives if not o.of],
        spec=SimpleNamespace(estimator=estimator, anchors={"task": anchors} if anchors else {}),
        splits={"search": {"task": list(anchors or IDS)}},
        stratum_of={"task": {id: "even" if int(id[1:]) % 2 else "odd" for id in IDS}},
        scorers={"task": Task(aggregate)},
    )
    for name in ("value", "with_derived", "sums"):
        setattr(suite, name, getattr(Suite, name).__get__(suite))
    return suite


def results(items: Sequence[str] = IDS, **metrics: Any) -> Any:
    """Responses to ``items``; metrics are given for all of them."""
    at = [IDS.index(id) for id in items]
    chosen = {name: [values[n] for n in at] for name, values in metrics.items()}
    return {"task": {"items": list(items), "responses": at, "metrics": chosen, "tokens": 0}}


draw = np.random.default_rng(0)
HARDNESS = draw.normal(size=COUNT)
BYTES = draw.integers(10, 90, COUNT).tolist()
NATS = np.array(BYTES) * np.exp(0.3 * HARDNESS)


def correct(skill: float, key: int) -> list[float]:
    noise = np.random.default_rng(key).normal(size=COUNT)
    return (skill + 0.5 * noise > HARDNESS).astype(float).tolist()


def pairs(nats: Any) -> list[list[float]]:
    return [[float(n), size] for n, size in zip(nats, BYTES, strict=True)]


ARCHIVE = [
    results(acc=correct(skill, key), bits=pairs(NATS * (1 + 0.05 * key)))
    for key, skill in enumerate((-0.5, 0.0, 0.2, 0.3))
]


def test_whole_answers_are_exact() -> None:
    suite = suite_of(mean, ratio)
    whole = results(acc=correct(0.5, 9), bits=pairs(NATS))
    for estimation in (Estimation(suite), Estimation(suite, ARCHIVE)):
        values, errors = estimation.values(whole)
        assert values["mean"] == average(whole["task"]["metrics"]["acc"])
        assert values["ratio"] == pytest.approx(NATS.sum() / sum(BYTES) / math.log(2))
        assert errors == {"mean": 0.0, "ratio": 0.0}


def test_samples_stand_for_the_whole_split() -> None:
    """On average right, with errors that tell how far off; the archive explains a part of it."""
    suite = suite_of(mean)
    child = correct(0.9, 9)  # better than all that is known
    offs: dict[str, list[float]] = {}
    for estimator in ("mean", "regression"):
        suite.spec.estimator = estimator
        estimation = Estimation(suite, ARCHIVE)
        for key in range(200):
            items = sorted(np.random.default_rng(key).permutation(IDS)[:30], key=IDS.index)
            values, errors = estimation.values(results(items, acc=child))
            error = errors["mean"]
            assert error is not None and 0 < error < 0.2
            offs.setdefault(estimator, []).append((values["mean"] - average(child)) / error)
            offs.setdefault(f"{estimator} off", []).append(values["mean"] - average(child))
    for estimator in ("mean", "regression"):
        assert abs(np.mean(offs[estimator])) < 0.3
        assert np.mean(np.abs(offs[estimator]) < 1.96) > 0.88
    assert np.std(offs["regression off"]) < np.std(offs["mean off"])


def test_a_ratio_is_estimated_where_what_it_is_over_is_known() -> None:
    suite = suite_of(ratio)
    child = pairs(NATS * 0.8)
    values, errors = Estimation(suite, ARCHIVE).values(results(SAMPLE, bits=child))
    whole = 0.8 * NATS.sum() / sum(BYTES) / math.log(2)
    error = errors["ratio"]
    assert error is not None and abs(values["ratio"] - whole) < 4 * error < 0.1 * whole
    plain, _ = Estimation(suite).values(results(SAMPLE, bits=child))
    assert abs(values["ratio"] - whole) < 0.3 * abs(plain["ratio"] - whole)
    other = [[n, size + 1] for n, size in child]
    values, errors = Estimation(suite, ARCHIVE).values(results(SAMPLE, bits=other))
    assert errors == {"ratio": None}, "not the same bytes"


def test_what_is_neither_mean_nor_ratio_keeps_its_plain_value_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    suite = suite_of(mean, ratio, aggregate=lambda values: math.exp(average(values)))
    child = results(SAMPLE, acc=correct(0.5, 9), bits=pairs(NATS))
    estimation = Estimation(suite, ARCHIVE)
    values, errors = estimation.values(child)
    assert values["mean"] == math.exp(average(child["task"]["metrics"]["acc"]))
    assert errors["mean"] is None and errors["ratio"]
    assert estimation.values(child)[1] == errors
    (line,) = caplog.messages
    assert line.startswith("mean: ") and line.endswith("it is no mean and no ratio of sums")


def test_an_archive_whose_models_differ_in_what_they_answer_estimates_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    half = [None if n % 2 else 1.0 for n in range(COUNT)]
    archive = [*ARCHIVE, results(acc=half, bits=pairs(NATS))]
    _, errors = Estimation(suite_of(mean), archive).values(results(SAMPLE, acc=correct(0.5, 9)))
    assert errors == {"mean": None}
    assert "the known models have values for different items" in caplog.text


def test_items_that_a_metric_does_not_apply_to_are_left_out() -> None:
    suite = suite_of(mean)
    without = {IDS[n] for n in range(0, COUNT, 5)}

    def cut(values: Sequence[float]) -> list[float | None]:
        return [None if id in without else v for id, v in zip(IDS, values, strict=True)]

    archive = [results(acc=cut(known["task"]["metrics"]["acc"])) for known in ARCHIVE]
    estimation = Estimation(suite, archive)
    values, errors = estimation.values(results(SAMPLE, acc=cut([1.0] * COUNT)))
    assert errors["mean"] is not None and abs(values["mean"] - 1) < 4 * errors["mean"]
    values, errors = estimation.values(results(SAMPLE, acc=correct(0.5, 9)))
    assert errors == {"mean": None}, "values where the archive has none"


def test_objectives_made_of_others_have_errors_too() -> None:
    worst = Objective("worst", "", "", of=("mean", "other"), how="worst")
    both = Objective("both", "", "", of=("mean", "other"), how="mean")
    suite = suite_of(mean, Objective("other", "task", "f1"), worst, both)
    archive = [
        results(acc=known["task"]["metrics"]["acc"], f1=[0.9 + 0.001 * n] * COUNT)
        for n, known in enumerate(ARCHIVE)
    ]
    child = results(SAMPLE, acc=correct(0.1, 9), f1=[0.95] * COUNT)
    values, errors = Estimation(suite, archive).values(child)
    assert values["worst"] == values["mean"] < values["other"]
    assert errors["worst"] == pytest.approx(errors["mean"]) and errors["other"] is not None
    assert errors["both"] == pytest.approx(((errors["mean"] or 0) + errors["other"]) / 2)


def test_errors_of_one_scorer_add_up_and_those_of_several_in_squares() -> None:
    suite = suite_of(mean, replace(ratio, scorer="task"), Objective("far", "elsewhere", "acc"))
    values, errors = (
        {"mean": 0.5, "ratio": 2.0, "far": 0.1},
        {"mean": 0.1, "ratio": 0.2, "far": 0.4},
    )

    def score(values: Values) -> float:
        return values["mean"] - values["ratio"] + values["far"]

    assert spread(suite.objectives, score, values, errors) == pytest.approx(
        math.hypot(0.1 + 0.2, 0.4)
    )
    assert spread(suite.objectives, score, values, {**errors, "far": None}) is None
    assert spread(suite.objectives, score, values, {"mean": 0.1}) == pytest.approx(0.1), (
        "others do not count"
    )


def test_anchors_are_weighted() -> None:
    weights = {IDS[3]: 3.0, IDS[5]: 1.0, IDS[7]: 4.0}
    suite = suite_of(mean, ratio, anchors=weights)
    found = results(list(weights), acc=[float(n == 5) for n in range(COUNT)], bits=pairs(NATS))
    values, errors = Estimation(suite).values(found)
    over = 3 * NATS[3] + NATS[5] + 4 * NATS[7]
    under = 3 * BYTES[3] + BYTES[5] + 4 * BYTES[7]
    assert values == pytest.approx({"mean": 1 / 8, "ratio": over / under / math.log(2)})
    assert errors == {"mean": None, "ratio": None}
