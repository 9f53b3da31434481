"""How long a job may tell nothing."""

from __future__ import annotations

import math

from evomerge.pool.ray.silence import FLOOR, TIMES, UNKNOWN, Silence


def test_nothing_is_learned_from_nothing() -> None:
    assert Silence().limit(100) == UNKNOWN


def test_quick_jobs_leave_hours_to_what_comes() -> None:
    silence = Silence()
    silence.learn(2.0, 10)
    assert silence.limit(10) == FLOOR


def test_a_job_of_more_items_may_take_longer_and_one_of_fewer_no_less() -> None:
    silence = Silence()
    silence.learn(600.0, 100)
    assert silence.limit(100) == TIMES * 600
    assert silence.limit(1000) == TIMES * 6000
    assert silence.limit(1) == silence.limit(0) == TIMES * 600
    silence.learn(1.0, 100)
    assert silence.limit(1000) == TIMES * 6000, "the slowest decides"


def test_who_knows_better_decides_but_a_worker_may_download_first() -> None:
    silence = Silence(30.0)
    silence.learn(600.0, 100)
    assert silence.limit(100) == 30.0
    assert silence.building == UNKNOWN
    assert Silence(math.inf).limit(1) == Silence(math.inf).building == math.inf
