"""Tracking: a search's listener that tells trackers what arrives, each step once, also over resumes.

How many steps a tracker was told stands in ``trackers.json`` beside the journal, written before a step is told: a
search that is killed tells no step twice, and what a tracker lacks it is told from the journal.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evomerge import config
from evomerge.evolution.core import Search
from evomerge.evolution.history import MERGED, History
from evomerge.judging.final import IntervalOf
from evomerge.judging.table import Table
from evomerge.plain_files import read_plain
from evomerge.record.events import JOURNAL, EvaluationLine, Head, read_lines
from evomerge.report.evaluations import score_of
from evomerge.report.text import table_markdown, table_rows
from evomerge.run.loop import Listener
from evomerge.run.preflight import Run
from evomerge.suite.objectives import Score
from evomerge.trackers import Tracker
from evomerge.visible import first_line

STATE = "trackers.json"


@dataclass
class Steps:
    """A fold over evaluations in the order they arrived: the numbers of each, and what was best by then."""

    count: int = 0
    failed: int = 0
    items: int = 0
    tokens: int = 0
    seconds: Counter[str] = field(default_factory=Counter)  # by what workers did
    _best: Score | None = None
    _open: dict[int, list[float]] = field(default_factory=dict)  # batch -> scores so far
    _arrived: dict[int, int] = field(default_factory=dict)

    def add(self, history: History, line: EvaluationLine) -> dict[str, float]:
        """The numbers of the next evaluation, which ``history`` has folded."""
        batch, values = history.batches[line.batch], line.values
        self.count += 1
        self.items += line.items
        self.tokens += line.tokens
        self.failed += line.error is not None
        self.seconds.update(line.seconds)
        score = score_of(history, line)
        row = {f"objective/{name}": value for name, value in (values or {}).items()}
        row |= {"items": line.items, "tokens": line.tokens, "failed": float(line.error is not None)}
        row |= {"total/evaluations": self.count, "total/failed": self.failed}
        row |= {"total/items": self.items, "total/tokens": self.tokens}
        row |= {f"total/seconds/{name}": taken for name, taken in self.seconds.items()}
        row["seconds"] = math.fsum(line.seconds.values())
        if score is not None:
            row["score"] = score
        if score is not None and batch.phase in MERGED and values is not None:
            found = history.score(line.batch, values)
            if self._best is None or found.rank > self._best.rank:
                self._best = found
            self._open.setdefault(line.batch, []).append(score)
        if self._best is not None:
            row["best"] = self._best.value
        self._arrived[line.batch] = self._arrived.get(line.batch, 0) + 1
        if self._arrived[line.batch] == len(batch.candidates):
            del self._arrived[line.batch]
            if scores := self._open.pop(line.batch, []):
                row |= {"generation": float(line.batch), "generation/best": max(scores)}
                row["generation/mean"] = math.fsum(scores) / len(scores)
        return row


def told_in(folder: Path) -> dict[str, int]:
    """Steps that each tracker was told in earlier sessions; of a file that is not ours, none."""
    try:
        found = json.loads(read_plain(folder / STATE))
        return {str(name): int(steps) for name, steps in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


class Tracking(Listener):
    """Tells ``trackers`` (by name) of a search; one that fails is named once, and told nothing more.

    Args:
        trackers: by name.
        note: is told which one failed, and why.
    """

    def __init__(self, trackers: Mapping[str, Tracker], note: Callable[[str], None]) -> None:
        self._trackers, self._note = dict(trackers), note
        self._known: dict[str, int] = {}  # steps that trackers were told in earlier sessions
        self._told: dict[str, int] = {}  # and by now, those that are told of this one
        self._steps = Steps()
        self._history: History | None = None
        self._folder = Path()
        self._done = False

    def started(
        self, run: Run, search: Search, resumed: bool, interval: IntervalOf, seconds: float
    ) -> None:
        history = search.history
        self._history, self._folder = history, run.spec.folder
        if history.done and history.tabled:  # nothing is to follow
            self._trackers.clear()
            return
        lines = read_lines(self._folder / JOURNAL)
        head = next(lines)
        assert isinstance(head, Head)
        id = f"{head.digest[:8]}{int(1000 * head.time):x}"
        self._known = told_in(self._folder)
        for name, tracker in list(self._trackers.items()):
            with self._kept(name):
                told = tracker.start(
                    run.spec.folder.absolute().name, id, head.content, self._known.get(name, 0)
                )
                self._told[name] = told
        for line in lines:
            if isinstance(line, EvaluationLine):
                self._tell(line)

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        self._tell(line)

    def ended(self, table: Table) -> None:
        self._done = True
        heading, *rows = table_rows(table)
        for name, tracker in list(self._trackers.items()):
            with self._kept(name):
                tracker.table(heading, rows, table_markdown(table))

    def close(self) -> None:
        """No more follows, for now or at all."""
        for name, tracker in list(self._trackers.items()):
            if name in self._told:
                with self._kept(name):
                    tracker.finish(self._done)

    def _tell(self, line: EvaluationLine) -> None:
        """The next evaluation, to who was not told of it."""
        assert self._history is not None
        row = self._steps.add(self._history, line)
        step = self._steps.count
        for name, tracker in list(self._trackers.items()):
            if name in self._told and self._told[name] < step:
                self._told[name] = step
                with self._kept(name):
                    self._write()
                    tracker.log(step, row)

    @contextmanager
    def _kept(self, name: str) -> Iterator[None]:
        """Whatever a tracker raises drops it."""
        try:
            yield
        except Exception as error:
            del self._trackers[name]
            self._told.pop(name, None)
            self._note(f"tracker {name} failed and is left out from here on: {first_line(error)}")

    def _write(self) -> None:
        text = json.dumps({**self._known, **self._told})
        config.write_text(self._folder / STATE, text)
