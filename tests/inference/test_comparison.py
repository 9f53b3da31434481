"""Tests of paired differences: exact values, validity under the null, power."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import pytest

from evomerge.inference.comparison import Array, Sums, mcnemar, swap_labels


def bits(values: Sequence[tuple[float, float]]) -> float:
    return sum(a for a, _ in values) / sum(b for _, b in values) / np.log(2)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1
    assert mcnemar(0, 6) == mcnemar(6, 0) == pytest.approx(2 / 2**6)
    assert mcnemar(2, 8) == pytest.approx(2 * sum(comb(10, k) for k in range(3)) / 2**10)
    assert 0 < mcnemar(100, 900) < 1e-100


def test_sums_are_recognised_by_what_aggregation_does() -> None:
    mean = Sums.of(np.mean, [1.0, None, 0.0, 0.5])
    assert mean is not None
    assert mean.over.sum() / mean.under.sum() == 0.5
    rate = Sums.of(bits, [(3.0, 2), (5.0, 4), (1.0, 1)])
    assert rate is not None
    assert rate.scale * rate.over.sum() / rate.under.sum() == pytest.approx(9 / 7 / np.log(2))
    assert Sums.of(np.median, [1.0, 2.0, 6.0]) is None

    def f1(v: Sequence[tuple[int, int]]) -> float:
        return 2 * sum(a * b for a, b in v) / sum(a + b for a, b in v)

    assert Sums.of(f1, [(1, 0), (1, 1), (0, 1), (1, 1), (0, 0)]) is None
    assert Sums.of(np.mean, [{"a": 1}, {"b": 2}]) is None


def by_source(values: Array, siblings: int = 1) -> Sums:
    sums = Sums.of(np.mean, values.ravel().tolist())
    assert sums is not None
    return sums.by(np.repeat(np.arange(len(values) // siblings), siblings), len(values) // siblings)


def leads(ours: Array, theirs: Array) -> Array:
    return (ours - theirs).sum(axis=1)


def test_swaps_of_single_items_give_mcnemars_p() -> None:
    ours, theirs = np.zeros(40), np.zeros(40)
    ours[:9], theirs[9:12] = 1, 1
    p = swap_labels([by_source(ours)], [by_source(theirs)], leads, "key")
    assert p == pytest.approx(mcnemar(9, 3), abs=0.01)
    assert p == swap_labels([by_source(ours)], [by_source(theirs)], leads, "key")
    assert p != swap_labels([by_source(ours)], [by_source(theirs)], leads, "another key")
    few = swap_labels([by_source(np.ones(5))], [by_source(np.zeros(5))], leads, "key")
    assert few == 2 / 2**5, "all swaps are tried"


def test_p_values_are_uniform_where_models_are_equal_and_items_have_siblings() -> None:
    rng = np.random.default_rng(0)
    found = []
    for trial in range(150):
        skill = np.repeat(rng.normal(size=(2, 40)), 3, axis=1)  # siblings succeed together
        ours, theirs = (skill + 0.3 * rng.normal(size=(2, 120)) > 0).astype(float)
        sums = ([by_source(v, 3)] for v in (ours, theirs))
        found.append(swap_labels(*sums, leads, trial, draws=500))
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.1
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_small_differences_that_are_paired_are_found_in_sums_and_in_worsts() -> None:
    rng = np.random.default_rng(1)
    theirs = (rng.random(300) < 0.5).astype(float)
    ours = np.where(rng.random(300) < 0.06, 1.0, theirs)
    nats = np.stack([rng.gamma(5.0, size=300), np.full(300, 10.0)], axis=1)
    pair = []
    for right, numbers in ((ours, nats * [0.99, 1]), (theirs, nats)):
        sums = Sums.of(bits, numbers.tolist())  # type: ignore[arg-type]
        assert sums is not None
        pair.append([by_source(right), sums])
    sign = np.array([1, -1])

    def of_sum(ours: Array, theirs: Array) -> Array:
        return (ours - theirs) @ sign

    def of_worst(ours: Array, theirs: Array) -> Array:
        return (ours * sign).min(axis=1) - (theirs * sign).min(axis=1)

    assert swap_labels(*pair, of_sum, "sum") < 0.02
    assert swap_labels(*pair, of_worst, "worst", draws=500) < 0.02
