"""A run that is tried before it is started: real seconds and bytes of a real worker."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.commands.check import check
from evomerge.commands.measuring import Measured
from evomerge.errors import InputError
from evomerge.evolution.outlook import Course

COURSE = Course(
    limits={"evaluations": None, "items": 1000.0, "tokens": None, "hours": None},
    population=8,
    cost=lambda progress: 10 + 10 * progress,
    start=(4, 25),
    whole=300,
    select=50,
    rounds=(1.0,),
    shortlist=6,
    report=100,
    reported=5,
)
TOOK = Measured(opening=10.0, merge=0.1, item=0.5, slope=3.0, tokens=20.0, memory=1 << 30)


def test_a_worker_is_measured_and_the_time_of_the_search_follows(
    run_folder: Callable[..., Path],
) -> None:
    lines = check(run_folder("measured"), measured=True)
    (took,) = [line for line in lines if line.startswith("measured: ")]
    assert re.search(r"opens in .* s, merges in .* ms, takes .* an item", took)
    (memory,) = re.findall(r"and ([\d.]+) (MB|GB) of memory", took)
    assert float(memory[0]) * {"MB": 1, "GB": 1024}[memory[1]] > 100  # torch alone takes more
    assert any(line.startswith("time: about ") for line in lines)


def test_the_time_counts_every_phase_and_the_dearer_way_of_spending_what_is_left() -> None:
    known, after = 300 + 4 * 25, 6 * 50 + 5 * 100
    assert TOOK.seconds(COURSE, price=3) == 10 + (known + after) * 0.5 + (1000 - known) * 1.0
    plain = Measured(10.0, 0.1, 0.5, None, 20.0, 1 << 30)
    assert plain.seconds(COURSE, price=3) == 10 + (1000 + after) * 0.5


def test_hours_alone_tell_no_more_than_they_say() -> None:
    course = Course(
        **{**vars(COURSE), "limits": {"evaluations": None, "items": None, "hours": 2.0}}
    )
    assert TOOK.seconds(course, price=3) is None


def test_only_runs_are_measured(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("methods: [ties]\n")
    with pytest.raises(InputError, match="is a search space; --measure is of a run"):
        check(tmp_path / "space.yaml", measured=True)


def test_the_dtype_of_the_report_is_counted_by_its_tokens() -> None:
    dear = replace(COURSE, report_token=0.01)
    usual, more = TOOK.seconds(COURSE, 3), TOOK.seconds(dear, 3)
    assert usual is not None and more == pytest.approx(usual + 5 * 100 * 20 * 0.01)
