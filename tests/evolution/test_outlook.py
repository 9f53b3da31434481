"""The outlook: what is announced of a search whose every cost is known, and what it follows from."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.evolution.history import Batch, Evaluation, History, Phase
from evomerge.evolution.outlook import TABLE, Course, Outlook
from evomerge.suite.objectives import Score

ITEM, MERGE = 0.01, 0.2  # seconds


def candidate(id: int, slope: bool = False) -> Any:
    return SimpleNamespace(
        id=id,
        origin=f"model {id}",
        slope=slope,
        recipe=None,
        digest=str(id),
        packed=True,
    )


def course(**changes: Any) -> Course:
    given: dict[str, Any] = {
        "limits": {"evaluations": 60, "items": None, "tokens": None, "hours": None},
        "population": 8,
        "cost": lambda progress: 50.0,
        "start": (6, 100),
        "whole": 200,
        "select": 80,
        "rounds": (1.0,),
        "shortlist": 10,
        "report": 300,
        "reported": 6,
        "first": 8,
        **changes,
    }
    return Course(**given)


class Clocked:
    """A search that is played, evaluation by evaluation, on workers of known speed."""

    def __init__(self, course: Course, slots: int = 1) -> None:
        self.history = History(lambda *_: Score(0.5), lambda _: {"x": 1.0})
        self.history._frame_of = lambda candidate: None  # type: ignore[method-assign, assignment, return-value]
        self.outlook, self.course, self.now = Outlook(course, slots=slots), course, 0.0
        self.announced: list[tuple[float, float]] = []
        self.outlook.begin(0.0)
        self._next = 0

    def play(self, phase: Phase, count: int, items: int, *, slope: bool = False) -> None:
        number = len(self.history.batches)
        if phase in (Phase.SELECT, Phase.REPORT):
            ids = range(count)
        else:
            ids = range(self._next, self._next + count)
            self._next += count
        batch = Batch(number, phase, tuple(candidate(id, slope) for id in ids))
        self.history.open(batch)
        for place, one in enumerate(batch.candidates):
            taken = MERGE + ITEM * items
            taken += self.course.report_token * 10 * items if phase == Phase.REPORT else 0.0
            first = not self.announced or (phase in (Phase.SELECT, Phase.REPORT) and not place)
            taken *= 2 if first else 1  # what is cold takes twice as long
            self.now += taken / self.outlook.slots
            evaluation = Evaluation(number, one.id, {"x": 0.5}, items=items, tokens=10 * items)
            self.history.observe(evaluation)
            self.outlook.add(batch, evaluation, {"score": taken, "slope": 1e-6}, self.now)
            left = self.outlook.left(self.history, self.now)
            assert left is not None
            self.announced.append((self.now, left))

    def whole(self) -> None:
        course = self.course
        self.play(Phase.REFERENCES, 3, course.whole)
        self.play(Phase.START, course.start[0], course.start[1])
        while self.history.searched < 57:
            self.play(Phase.SEARCH, 8, 50)
        self.play(Phase.SELECT, course.shortlist, course.select)
        self.history.verdicts.append(
            SimpleNamespace(batch=self.history.batches[-1].number, last=True)
        )  # type: ignore[arg-type]
        self.play(Phase.REPORT, course.reported, course.report)
        self.now += TABLE


@pytest.mark.parametrize(("slots", "more"), [(1, 0.0), (4, 0.0), (1, 0.006)])
def test_the_time_to_the_table_is_announced_from_a_tenth_on(slots: int, more: float) -> None:
    run = Clocked(course(report_token=more), slots)
    run.whole()
    ratios = [
        left / (run.now - time)
        for time, left in run.announced
        if time >= 0.1 * run.now and run.now - time > 2
    ]
    assert min(ratios) > 0.5 and max(ratios) < 2
    assert all(abs(math.log(ratio)) < math.log(1.5) for ratio in ratios[len(ratios) // 3 :])


def test_nothing_is_announced_before_anything_was_timed() -> None:
    run = Clocked(course())
    assert run.outlook.left(run.history, 10.0) is None


def test_the_nearest_budget_counts() -> None:
    def after_start(**limits: Any) -> float:
        none = dict.fromkeys(("evaluations", "items", "tokens", "hours"))
        run = Clocked(course(limits={**none, **limits}))
        run.play(Phase.REFERENCES, 3, 200)
        run.play(Phase.START, 6, 100)
        run.play(Phase.SEARCH, 8, 50)
        return run.announced[-1][1]

    plenty = after_start(evaluations=1000)
    assert after_start(evaluations=1000, items=3000) < plenty
    assert after_start(items=3000) == pytest.approx(after_start(tokens=30_000), rel=0.05)
    # of hours no more than are left, with shortlist and report behind them
    assert 3600 * 0.5 < after_start(hours=0.5) + 60 < 3600 * 0.5 + 120
    assert after_start(evaluations=10_000, hours=0.5) == pytest.approx(after_start(hours=0.5))


def test_a_closed_search_leaves_shortlist_and_report() -> None:
    run = Clocked(course())
    run.play(Phase.REFERENCES, 3, 200)
    run.play(Phase.START, 6, 100)
    run.play(Phase.SEARCH, 8, 50)
    before = run.outlook.left(run.history, run.now)
    run.history.close("no gain")
    after = run.outlook.left(run.history, run.now)
    assert before is not None and after is not None
    rest = 10 * (MERGE + 80 * ITEM) + 7 * (MERGE + 300 * ITEM) + TABLE
    assert after == pytest.approx(rest, rel=0.15) and before > 1.5 * after


def test_time_runs_while_nothing_arrives() -> None:
    run = Clocked(course())
    run.play(Phase.REFERENCES, 3, 200)
    now = run.outlook.left(run.history, run.now)
    later = run.outlook.left(run.history, run.now + 5)
    assert now is not None and later == pytest.approx(now - 5)


def test_the_report_is_timed_by_itself_once_it_has_begun() -> None:
    run = Clocked(course(report_token=0.006))
    run.outlook.course = course(report_token=0.06)  # as if a machine had been timed wrongly
    run.whole()
    *_, (time, left), _ = run.announced
    assert left == pytest.approx(run.now - time, rel=0.2)
