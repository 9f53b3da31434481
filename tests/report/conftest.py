"""Runs to report: one that is done, the same of a stranger, and the same cut off at many places."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.search import search
from evomerge.inference.intervals import Interval
from evomerge.record import events
from evomerge.record.ablation import FILE, Ablation, Loss
from evomerge.record.events import EvaluationLine
from evomerge.record.holder import Holder, holder_of
from evomerge.record.journal import Journal
from evomerge.record.record import Record
from evomerge.record.responses import Store
from evomerge.report.progress import Display
from evomerge.run.loop import Listener, Listeners

HOSTILE = (
    '</script><script>alert("x")</script>"\'><img src=x onerror=alert(1)>&lt;\u202eevil\x1b]0;x\x07'
)
"""Stands in for a name: markup, quotes, an entity, an override of direction, a terminal's command."""


class Watching(Listener):
    """Looks, after each evaluation, at what the search announces beside its journal."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, list[Holder | None]()

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        self.seen.append(holder_of(self.folder))


@pytest.fixture(scope="session")
def watched(
    write_job: Callable[..., Path], small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Watching:
    """A run that is done, and what was to be seen of it before. Read only."""
    watching = Watching(write_job(tmp_path_factory.mktemp("report") / "run", **small))
    search(watching.folder, listener=Listeners(Display(quiet=True), watching))
    return watching


@pytest.fixture(scope="session")
def done(watched: Watching) -> Path:
    """A run that is done. Read only."""
    return watched.folder


@pytest.fixture(scope="session")
def hostile(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, as a stranger may have made it up: every name, answer and text of it wants to be more."""
    folder = tmp_path_factory.mktemp("stranger") / "run"
    folder.mkdir()
    record = Record(done)

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {changed(key): changed(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [changed(each) for each in value]
        if isinstance(value, str):
            for word in ("chat", "sums", "text", "uniform", "cma", "reason"):
                value = value.replace(word, word + HOSTILE)
        return value

    head = record.head
    inventory = changed(head.inventory)
    old = record.open_responses()
    new = Store.open(folder / events.RESPONSES, inventory)
    written = []
    for line in events.read_lines(record.path):
        event = changed(line.plain)
        if isinstance(line, EvaluationLine) and (block := line.block_at()):
            results = changed(old.read(block))
            for responses in results.values():
                responses["responses"] = [[HOSTILE] for _ in responses["items"]]
                responses["metrics"] |= {"truncated": [1.0 for _ in responses["items"]]}
            event["block"] = list(new.append(results).plain)
        if event["event"] == "evaluation":
            event["seconds"] = {HOSTILE: 1.5, **event["seconds"]}
        if event["event"] == "end":
            for row in event["table"]["rows"]:
                row["invalid"], row["notes"] = [HOSTILE], [HOSTILE]
            event["looks"] = HOSTILE
        written.append(event)
        if event["event"] == "settled":
            written.append(
                {"event": "decision", "time": event["time"], "batch": 1, "text": HOSTILE}
            )
    old.close()
    new.close()
    with Journal.open(folder / events.JOURNAL) as journal:
        for event in written:
            journal.append(event)
    (folder / FILE).write_text(json.dumps(losses(folder, f"chat{HOSTILE}").plain))
    return folder


def losses(run: Path, *lacking: str) -> Ablation:
    """Made-up losses of a run's winner without these things."""
    record = Record(run)
    winner = record.history.winner
    assert winner is not None
    lost = Interval(0.25, 0.125, 0.375)
    found = [
        Loss("part", each, lost, {o.name: lost for o in record.objectives}) for each in lacking
    ]
    found.append(Loss("parent", HOSTILE, failed=HOSTILE))
    digest = record.history.candidates[winner].recipe.digest
    return Ablation(winner, digest, 1 + len(found), {"sums": 8, "text": 4}, found)


@pytest.fixture
def cut(done: Path, tmp_path: Path) -> Callable[[int], Path]:
    """The same run, killed when it had written so many lines and a half."""

    def make(lines: int) -> Path:
        folder = Path(shutil.copytree(done, tmp_path / f"cut-{lines}"))
        kept = (folder / events.JOURNAL).read_bytes().splitlines(keepends=True)
        (folder / events.JOURNAL).write_bytes(b"".join(kept[:lines]) + kept[lines][:40])
        return folder

    return make
