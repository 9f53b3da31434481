from __future__ import annotations

import math
import operator
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evomerge.inference.intervals import Interval, Resampled, Resamples, jointly


def ids(count: int, siblings: int = 1) -> list[str]:
    """``count`` items, ``siblings`` of them to a source."""
    return [f"s{item // siblings}" for item in range(count)]


def width(estimate: Resampled) -> float:
    interval = estimate.interval()
    return interval.high - interval.low


def test_it_prints_like_a_result() -> None:
    assert str(Interval(0.78, 0.74, 0.812)) == "0.78 [0.74, 0.81]"
    assert str(Interval.unknown(0.78, "too few sources")) == "0.78 [too few sources]"


def test_counts_resample_all_sources() -> None:
    counts = Resamples.of(["a", "b", "a", "c"], 4000, 0).counts
    assert counts.shape == (4000, 3)
    assert (counts.sum(axis=1) == 3).all()
    assert counts.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.06)
    assert counts.var(axis=0) == pytest.approx([2 / 3] * 3, abs=0.08)


def test_the_key_and_the_set_of_sources_name_the_draws() -> None:
    one = Resamples.of(["a", "b", "c"], 50, 7, "report").counts
    assert (one == Resamples.of(["c", "a", "b", "a"], 50, 7, "report").counts).all()
    assert (one != Resamples.of(["a", "b", "c"], 50, 7, "select").counts).any()


def test_the_interval_covers_the_truth() -> None:
    covered = 0
    for trial in range(300):
        correct = np.random.default_rng(trial).random(80) < 0.7
        interval = Resamples.of(ids(80), 300, trial).mean(correct, ids(80)).interval(0.9)
        covered += interval.low <= 0.7 <= interval.high
    assert 0.84 <= covered / 300 <= 0.95


def test_clusters_are_covered_only_when_they_are_known() -> None:
    def coverage(siblings: int) -> float:
        covered = 0
        for trial in range(200):
            generator = np.random.default_rng(trial)
            correct = np.repeat(generator.random(60) < 0.6, 5)  # siblings answer alike
            names = ids(300, siblings)
            interval = Resamples.of(names, 300, trial).mean(correct, names).interval(0.9)
            covered += interval.low <= 0.6 <= interval.high
        return covered / 200

    assert coverage(siblings=5) > 0.82
    assert coverage(siblings=1) < 0.65


def test_pairing_shrinks_the_interval_of_a_difference() -> None:
    generator = np.random.default_rng(0)
    parent = generator.random(400) < 0.6
    child = np.where(generator.random(400) < 0.1, ~parent, parent)  # few answers flip
    resamples = Resamples.of(ids(400), 1000, 0)
    a, b = resamples.mean(child, ids(400)), resamples.mean(parent, ids(400))
    independent = Resamples.of(ids(400), 1000, 1).mean(parent, ids(400))
    paired = jointly(operator.sub, a, b)
    assert paired.value == pytest.approx(child.mean() - parent.mean())
    assert width(paired) < 0.6 * width(jointly(operator.sub, a, independent))


def test_answers_that_are_all_alike_claim_nothing_of_others() -> None:
    resamples = Resamples.of(ids(30), 100, 0)
    estimate = resamples.mean(np.arange(30.0), ids(30))
    nothing = Interval.unknown(0, "no spread")
    assert jointly(operator.sub, estimate, estimate).interval() == nothing
    assert str(resamples.mean(np.full(30, 3.0), ids(30)).interval()) == "3.00 [no spread]"


def test_siblings_in_two_tasks_are_drawn_together() -> None:
    """The same sources in two languages: as wide as one language; other sources: narrower."""
    correct = np.random.default_rng(0).random(200) < 0.5
    th, id_ = ids(200), ids(200)
    other = [f"other {source}" for source in id_]

    def average(second: list[str]) -> Resampled:
        resamples = Resamples.of([*th, *second], 1000, 0)
        tasks = resamples.mean(correct, th), resamples.mean(correct, second)
        return jointly(lambda a, b: (a + b) / 2, *tasks)

    assert width(average(id_)) == pytest.approx(width(Resamples.of(th, 1000, 0).mean(correct, th)))
    assert width(average(other)) < 0.85 * width(average(id_))


@given(
    values=st.lists(st.floats(-10, 10), min_size=2, max_size=30),
    siblings=st.integers(1, 3),
)
def test_the_fast_paths_equal_the_general_one(values: list[float], siblings: int) -> None:
    names = ids(len(values), siblings)
    numbers = np.array(values)
    sizes = 1 + np.arange(len(values)) % 4
    resamples = Resamples.of(names, 20, 0)

    def bits_per_byte(items: NDArray[np.int64]) -> float:
        return float(numbers[items].sum() / sizes[items].sum())

    for fast, slow in (
        (resamples.mean(values, names), lambda items: float(numbers[items].mean())),
        (resamples.ratio(numbers, sizes, names), bits_per_byte),
    ):
        general = resamples.function(slow, names)
        assert fast.value == pytest.approx(general.value)
        np.testing.assert_allclose(fast.draws, general.draws, atol=1e-9)


def test_a_median_has_an_interval_too() -> None:
    values = np.random.default_rng(0).normal(size=200)
    resamples = Resamples.of(ids(200), 300, 0)
    estimate = resamples.function(lambda items: float(np.median(values[items])), ids(200))
    interval = estimate.interval()
    assert interval.low < np.median(values) < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 1.253 / math.sqrt(200), rel=0.4)


def test_too_few_sources_say_nothing() -> None:
    alone = Resamples.of(["a", "a"], 100, 0).mean([1, 0], ["a", "a"])
    assert alone.value == 0.5
    assert alone.interval() == Interval.unknown(0.5, "too few sources")
    # one item of a task among many sources of another task: constant wherever it is defined
    resamples = Resamples.of(["rare", *ids(100)], 500, 0)
    rare, common = resamples.mean([1], ["rare"]), resamples.mean(np.arange(100), ids(100))
    assert str(rare.interval()) == "1.00 [too few sources]"
    assert math.isfinite(common.interval().low)
    assert math.isinf(jointly(operator.add, rare, common).interval().high)
    four, five = (resamples.mean(range(n), ids(n)).interval() for n in (4, 5))
    assert math.isinf(four.low) and math.isfinite(five.low)


def test_a_source_that_was_not_resampled_is_refused() -> None:
    with pytest.raises(KeyError, match="unknown"):
        Resamples.of(["a", "b"], 10, 0).mean([1.0], ["unknown"])


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("sources", [3, 8, 72])
def test_a_unanimous_share_is_not_certain(value: float, sources: int) -> None:
    """Clopper & Pearson: of 20 sources that all agree, a twentieth may well not have."""
    names = ids(sources)
    resamples = Resamples.of(names, 2000, 0)
    interval = resamples.share([value] * sources, names, "key").interval()
    bound = 0.025 ** (1 / sources)
    expected = (bound, 1.0) if value else (0.0, 1 - bound)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-3)
    if sources == 72:  # and one that disagrees makes nobody surer
        almost = resamples.share([1 - value, *[value] * 71], names, "key").interval()
        assert almost.low <= interval.low if value else almost.high >= interval.high


def test_combinations_inherit_what_unanimity_leaves_open() -> None:
    names = ids(20)
    resamples = Resamples.of(names, 1000, 0)
    ones = [resamples.share(np.ones(20), names, key) for key in "abc"]
    zero = resamples.share(np.zeros(20), names, "d")
    mean = jointly(lambda *parts: sum(parts) / 3, *ones).interval()
    assert mean.high == mean.value == 1.0 and 0.83 < mean.low < 0.95
    difference = jointly(operator.sub, ones[0], ones[1]).interval()
    assert difference.low == pytest.approx(-3 / 20, abs=0.03)
    assert difference.high == pytest.approx(3 / 20, abs=0.03)
    assert jointly(operator.sub, ones[0], zero).interval().low < 0.83


def test_one_number_has_one_interval() -> None:
    """A score of one unanimous objective, and its difference to a certain zero, is known as it is."""
    names = ids(6)
    share = Resamples.of(names, 2000, 0).share(np.ones(6), names, "key")
    score, alone = jointly(lambda x: x, share).interval(), share.interval()
    assert (score.low, score.high) == pytest.approx((alone.low, alone.high), abs=0.01)


@pytest.mark.parametrize("sources", [5, 6, 12, 48, 1000])
def test_few_sources_widen_the_interval_as_students_t_does(sources: int) -> None:
    """Of a mean of normal draws it is the t interval, where resamples reach so far."""
    t = {5: 2.776445, 6: 2.570582, 12: 2.200985, 48: 2.011741, 1000: 1.962341}[sources]
    draws = NormalDist(3, 0.5).samples(200_000, seed=0)
    interval = Resampled(3.0, np.array(draws), sources).interval()
    reach = 0.5 * t * math.sqrt(sources / (sources - 1))
    assert (interval.low, interval.high) == pytest.approx((3 - reach, 3 + reach), rel=0.03)


@pytest.mark.parametrize("sources", [6, 12, 48])
@pytest.mark.parametrize("p", [0.8, 0.95])
def test_of_few_sources_the_truth_is_covered_too(sources: int, p: float) -> None:
    """A share, a mean of three and a paired difference; plain percentiles cover 50 to 90 percent."""
    names, covered = ids(sources), np.zeros(3)
    for trial in range(200):
        answers = np.random.default_rng(trial).random((3, sources)) < p
        resamples = Resamples.of(names, 500, trial)
        a, b, c = (resamples.share(row, names, trial, number) for number, row in enumerate(answers))
        mean, difference = jointly(lambda *x: sum(x) / 3, a, b, c), jointly(operator.sub, a, b)
        for number, (estimate, truth) in enumerate(((a, p), (mean, p), (difference, 0))):
            interval = estimate.interval()
            covered[number] += interval.low <= truth <= interval.high
    assert (covered / 200 > 0.9).all(), covered
