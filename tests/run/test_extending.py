"""A budget that is extended, while a search goes on or after its end: recorded, and resumed like all else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.errors import InputError
from evomerge.evolution.history import Phase
from evomerge.record.events import JOURNAL, RESPONSES, EndLine
from evomerge.record.record import Record
from evomerge.run.extending import extended
from evomerge.testing.stopping import Stopper
from evomerge.testing.trajectory import Trajectory, trajectory

RunFolder = Callable[..., Path]
BUDGET: dict[str, float | None] = {"evaluations": 16, "items": None, "tokens": None, "hours": 2.0}


def phases(folder: Path) -> list[Phase]:
    """Of the batches, each run of equal ones once."""
    found: list[Phase] = []
    for batch in Record(folder).history.batches:
        if found[-1:] != [batch.phase]:
            found.append(batch.phase)
    return found


def cut(folder: Path, to: Path, size: int) -> Path:
    """What a search in ``folder`` leaves in ``to`` that is killed when its journal has ``size`` bytes."""
    (to / JOURNAL).write_bytes((folder / JOURNAL).read_bytes()[:size])
    (to / RESPONSES).write_bytes((folder / RESPONSES).read_bytes())
    return to


@pytest.fixture
def whole(run_folder: RunFolder, small: dict[str, Any]) -> tuple[Path, Trajectory]:
    """A finished search that went on with six candidates more, and its trajectory."""
    folder = run_folder("whole", **small)
    search(folder)
    search(folder, extension={"evaluations": "+6"})
    return folder, trajectory(folder)


@pytest.mark.slow
def test_a_finished_search_goes_on(whole: tuple[Path, Trajectory]) -> None:
    folder, _ = whole
    record = Record(folder)
    once = [Phase.SEARCH, Phase.SELECT, Phase.REPORT]
    assert phases(folder) == [Phase.REFERENCES, Phase.START, *once, *once]
    assert record.history.searched == 22 and record.budget["evaluations"] == 22
    tables = [line for line in record.lines if isinstance(line, EndLine)]
    assert len(tables) == record.history.ended == 2
    told = [line for line in (folder / "report.md").read_text().splitlines() if "table 2" in line]
    assert len(told) == 1, "whoever reads the table knows that it is the second"
    first, second = (r for r in _shortlists(record))
    assert record.history.ended == 2 and first & second, "what was chosen before is compared again"
    assert {line.looks for line in record.lines if isinstance(line, EndLine)} != {""}


def _shortlists(record: Record) -> list[set[int]]:
    """The first round of each."""
    batches = record.history.batches
    return [
        {c.id for c in batch.candidates}
        for before, batch in itertools.pairwise(batches)
        if batch.phase == Phase.SELECT and before.phase != Phase.SELECT
    ]


@pytest.mark.slow
def test_cut_anywhere_after_the_extension_it_goes_on_alike(
    run_folder: RunFolder, small: dict[str, Any], whole: tuple[Path, Trajectory]
) -> None:
    folder, undisturbed = whole
    journal = (folder / JOURNAL).read_bytes()
    ends = [at + 1 for at, byte in enumerate(journal) if byte == ord("\n")]
    lines = [json.loads(line) for line in journal.splitlines()]
    extension = next(n for n, line in enumerate(lines) if line["event"] == "extended")
    for number in sorted({*range(extension, len(lines) - 1, 9), len(lines) - 2}):
        killed = cut(folder, run_folder(f"cut after {number}", **small), ends[number] + 7)
        search(killed)
        assert trajectory(killed) == undisturbed, number
        assert (killed / RESPONSES).read_bytes() == (folder / RESPONSES).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 9])
def test_extended_during_the_search_it_is_simply_longer(
    after: int, run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("run", **small)
    with pytest.raises(KeyboardInterrupt):
        search(folder, listener=Stopper(after))
    search(folder, extension={"evaluations": "22"})
    record = Record(folder)
    assert record.history.searched == 22 and record.history.ended == 1
    assert phases(folder).count(Phase.SEARCH) == 1
    undisturbed = trajectory(folder)
    journal = (folder / JOURNAL).read_bytes()
    ends = [at + 1 for at, byte in enumerate(journal) if byte == ord("\n")]
    at = next(n for n, line in enumerate(journal.splitlines()) if b'"extended"' in line)
    for number in (at, at + 4, len(ends) - 3):
        killed = cut(folder, run_folder(f"cut after {number}", **small), ends[number])
        search(killed)
        assert trajectory(killed) == undisturbed, number


@pytest.mark.slow
def test_between_rounds_of_the_shortlist_no_report_is_opened(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("run", **small)
    search(folder)
    journal = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    judged = next(n for n, line in enumerate(journal) if b'"event":"round"' in line)
    killed = cut(folder, run_folder("killed", **small), len(b"".join(journal[: judged + 1])))
    assert main(["resume", str(killed), "--ray", "off", "--quiet", "--evaluations", "+3"]) == 0
    assert phases(killed).count(Phase.REPORT) == 1 and phases(killed).count(Phase.SELECT) == 2
    assert Record(killed).history.searched == 19


def test_what_makes_no_sense_is_refused(
    run_folder: RunFolder, small: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extended(BUDGET, {"evaluations": "+4"}) == {**BUDGET, "evaluations": 20}
    assert extended(BUDGET, {"evaluations": "20", "hours": "+0.5"}) == {
        **BUDGET,
        "evaluations": 20,
        "hours": 2.5,
    }
    assert extended(BUDGET, {"evaluations": "16"}) is None, "again the same total changes nothing"
    for asked, says in {
        "+0": "above 0",
        "x": "whole number",
        "+1.5": "whole number",
        "12": "less than the 16 evaluations",
    }.items():
        with pytest.raises(InputError, match=says):
            extended(BUDGET, {"evaluations": asked})
    with pytest.raises(InputError, match=r"no budget of items .* it has --evaluations, --hours"):
        extended(BUDGET, {"items": "+100"})
    with pytest.raises(InputError, match=r"--items -5: expected \+N for so much more"):
        search("nowhere", extension={"items": "-5"})  # before anything is opened
    folder = run_folder("fresh", **small)
    assert main(["resume", str(folder), "--evaluations", "+3"]) == 2
    assert "nothing was searched here yet" in capsys.readouterr().err
