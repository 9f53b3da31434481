"""Small texts of a search that is watched."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.inference.intervals import Interval
from evomerge.pool import Slot
from evomerge.record.holder import holder_of
from evomerge.report.progress import workers_text
from evomerge.report.sparkline import BARS, WIDTH, Course, sparkline
from evomerge.report.terminal import duration_text, searched_text
from evomerge.suite.objectives import Objective
from evomerge.suite.ranges import range_of, ranges


def test_a_sparkline_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([]) == "" and sparkline([1.0, 1.0]) == BARS[0] * 2
    assert sparkline([0.0, 0.5, 1.0])[::2] == BARS[0] + BARS[-1]
    long = sparkline([n / 1000 for n in range(1000)])
    assert len(long) == WIDTH and list(long) == sorted(long) and long[-1] == BARS[-1]


def test_the_course_of_the_best_stays_short() -> None:
    course = Course()
    for n in range(10_000):
        course.add(n // 100)
    line = course.line()
    assert len(line) <= WIDTH and line[-1] == BARS[-1] and list(line) == sorted(line)
    assert course.line(plain=True).isascii()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (89, "89 s"), (200, "3 min"), (5400, "1 h 30 min"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_workers_are_counted_by_what_they_do() -> None:
    slots = [Slot("busy", 3, 9), Slot("starting"), Slot("busy"), Slot("idle")]
    assert workers_text(slots) == "2 busy, 1 idle, 1 starting"


def test_ranges_of_metrics() -> None:
    assert range_of("acc") == range_of("exact_match,strict-match") == range_of("ndcg@10") == (0, 1)
    assert range_of("acc*in_language") == (0, 1)
    assert range_of("bits_per_byte")[0] == 0 and range_of("margin")[0] == -float("inf")
    parts = [Objective("a", "a", "acc"), Objective("b", "b", "acc")]
    assert ranges([*parts, Objective("w", "", "", of=("a", "b"), how="worst")])["w"] == (0, 1)


def test_intervals_end_where_their_metric_does_and_exact_is_what_was_asked_whole() -> None:
    unit = (0.0, 1.0)
    assert searched_text(Interval(0.96, 0.85, 1.07), unit, whole=False) == "0.960 [0.850, 1.000]"
    assert searched_text(Interval(1.02, 0.99, 1.05), unit, whole=False) == "1.000 [0.990, 1.000]"
    assert (
        searched_text(Interval(1.0, 1.0, 1.0), unit, whole=True)
        == "1.000 (exact on the search items)"
    )
    assert "all alike on a sample" in searched_text(Interval(1.0, 1.0, 1.0), unit, whole=False)
    assert "exact" not in searched_text(Interval(1.2, 1.1, 1.3), unit, whole=True)
    assert (
        searched_text(Interval.unknown(0.5, "anchors"), unit, whole=True) == "0.500 (error unknown)"
    )


def test_a_search_that_runs_announces_how_long_it_takes(watched: Any) -> None:
    told = [each.left for each in watched.seen if each is not None]
    assert len(told) == len(watched.seen) and all(each.running for each in watched.seen)
    assert told[-1] is not None and 0 < told[-1] < 3600
    assert holder_of(watched.folder) is None
