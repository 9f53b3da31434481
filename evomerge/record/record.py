"""The reader of a run, from its journal alone: no models, tasks or libraries needed, also while it works."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.evolution.history import History, Phase
from evomerge.inference.intervals import Interval
from evomerge.judging.evidence import score_range, search_interval
from evomerge.judging.table import Table
from evomerge.recipe import Body, Recipe
from evomerge.record import events
from evomerge.record.provenance import with_provenance
from evomerge.record.responses import Block, Store
from evomerge.suite.objectives import combine, yardsticks
from evomerge.suite.splits import Split


class Record:
    """What a journal tells of its run.

    Attributes:
        folder: the run's folder.
        head: the first event of the journal.
        objectives: what the run optimizes.
        history: candidates, evaluations and scores.
        lines: the events of the journal, in order; those of batches are in the history alone.

    Raises:
        InputError: there is no journal, or it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        path = begun(folder)
        self.folder = path.parent
        self._read(path)

    def _read(self, path: Path) -> None:
        self.path, self._survey, self.lines = path, events.Survey(), list[events.Line]()
        with events.unswept():
            for line in events.read_lines(path):
                self._survey.add(line)
                self._fold(line)
        if self._survey.head is None:
            raise empty(path)

    def _fold(self, line: events.Line) -> None:
        """The newest line that was surveyed."""
        number = self._survey.count
        try:
            if isinstance(line, events.Head):
                self._begin(line)
            events.fold(self.history, line, self.template, self.path, number)
        except events.SENSELESS as error:
            raise events.senseless(self.path, number, error) from error
        if not isinstance(line, events.BatchLine):
            self.lines.append(line)

    def _begin(self, head: events.Head) -> None:
        self.head, self.objectives = head, head.objectives
        self.history = History(
            lambda values, references, gains: combine(
                self.objectives, head.combine, values, references, gains
            ),
            lambda references: yardsticks(self.objectives, references),
            packing=False,  # it takes a quarter of the time to read a journal
        )

    @property
    def end(self) -> events.EndLine | None:
        """The event that ended the search; None before."""
        return self._survey.end

    @cached_property
    def template(self) -> Recipe:
        """The run's models, dtype and seed, without a body (kept apart: a recipe needs one)."""
        return template_from(self.head.template, self.folder)

    @cached_property
    def table(self) -> Table | None:
        """The table on the report split; None before the end."""
        return None if self.end is None else self.end.final

    @property
    def seconds(self) -> float:
        """Seconds worked so far, over all sessions."""
        return self._survey.seconds

    @property
    def worked(self) -> dict[str, float]:
        """What workers did, over all sessions: items, tokens, and seconds of ``merge``, ``score`` and ``slope``."""
        return {"items": 0, "tokens": 0, **self._survey.worked}

    @property
    def newest(self) -> float:
        """When the last event was written, in seconds since the epoch."""
        return self._survey.newest

    @property
    def spent(self) -> dict[str, float]:
        """What was used of each budget before the shortlist."""
        return {**asdict(self.history.spent), "hours": self.seconds / 3600}

    @property
    def best_interval(self) -> Interval | None:
        """The search score of the best merge so far, and how far off it may be; None before there is one."""
        best = self.history.best
        if best is None:
            return None
        return search_interval(self.history, self.objectives, best.batch, best.candidate)

    @property
    def best_ends(self) -> tuple[float, float]:
        """The least and the greatest search score that there can be."""
        best = self.history.best
        ends = (-math.inf, math.inf)
        return ends if best is None else score_range(self.history, self.objectives, best.batch)

    @property
    def best_whole(self) -> bool:
        """Whether the best merge so far was asked every search item where it was scored."""
        best = self.history.best
        if best is None:
            return False
        asked = self.history.evaluations(best.batch)[best.candidate].items
        return asked >= sum(map(len, self.head.splits.items[Split.SEARCH].values()))

    @property
    def remarks(self) -> list[str]:
        """What the run left out that it could have done, and how often its report items had been seen."""
        looks = [self.end.looks] if self.end else []
        return [*remarks_on(self.history, self.budget), *looks]

    @property
    def budget(self) -> Mapping[str, float | None]:
        """What the search may spend before its shortlist, extensions counted; None is no limit."""
        return {**self.head.budget, **self.history.limits}

    def open_responses(self, blocks: Sequence[Block] | None = None) -> Store:
        """Every answer of the run, or those in some ``blocks`` alone, for reading; close it after use.

        Raises:
            InputError: the store is absent or damaged.
        """
        return Store.open(
            self.folder / events.RESPONSES,
            self.head.inventory,
            self._survey.blocks if blocks is None else blocks,
            writable=False,
        )

    def chosen(self) -> int:
        """The winner; before the end, the best so far by its search score.

        Raises:
            InputError: nothing was scored yet.
        """
        if self.history.winner is not None:
            return self.history.winner
        if self.history.best is None:
            raise InputError(f"{self.folder}: no merge was scored yet; see `evomerge status`")
        return self.history.best.candidate

    def recipe(self, candidate: int) -> Recipe:
        """The portable recipe of a candidate, with its provenance.

        Raises:
            InputError: there is no such candidate.
        """
        if candidate not in self.history.candidates:
            last = len(self.history.candidates) - 1
            raise InputError(f"{self.folder}: no candidate {candidate}; there are 0 to {last}")
        return with_provenance(self.history, self.objectives, candidate, self.head, self.table)


def begun(folder: str | Path) -> Path:
    """The journal in the folder of a run, or beside a run.yaml.

    Raises:
        InputError: there is none.
    """
    folder = Path(folder)
    path = (folder.parent if folder.suffix in (".yaml", ".yml") else folder) / events.JOURNAL
    if not path.is_file():
        raise InputError(
            f"{path}: no such file: nothing was searched here yet (see `evomerge search`), or this is not the "
            "folder of a run"
        )
    return path


def head_of(folder: str | Path) -> events.Head:
    """What the run in ``folder`` is.

    Raises:
        InputError: it was not begun.
    """
    path = begun(folder)
    head = events.head_at(path)
    if head is None:
        raise empty(path)
    return head


def empty(path: Path) -> InputError:
    """What to raise where a journal has no line."""
    return InputError(
        f"{path}: is empty: the search in this folder did not begin yet; `evomerge search` begins it"
    )


def remarks_on(history: History, budget: Mapping[str, float | None]) -> list[str]:
    """What a run left out that it could have done, and why."""
    phases, spent = [batch.phase for batch in history.batches], history.spent
    found = [f"{name} cannot rank these models: {why}" for name, why in history.unable.items()]
    if Phase.SELECT in phases and Phase.SEARCH not in phases:
        limits = [
            f"{getattr(spent, name):,} of {limit:,} {name}"
            for name, limit in budget.items()
            if limit and name != "hours"
        ]
        limits += [history.closed] if history.closed else []
        found.append(
            "no generation was searched: base, parents and known recipes left too little of the budget "
            f"({', '.join(limits)})"
        )
    elif history.closed:
        found.append(f"the search phase ended early, {history.closed}")
    if history.ended > 1:
        found.append(
            f"this is table {history.ended} of this search: its budget was extended by somebody who may have seen "
            f"table {history.ended - 1}, which is of the same report items"
        )
    if history.verdicts and (why := history.verdicts[0].unraced):
        found.append(f"the shortlist answered the whole select split, without a race: {why}")
    return found


def template_from(plain: Mapping[str, Any], folder: Path) -> Recipe:
    """A recipe without a body from plain data, whatever body that has."""
    body = {field.name for field in fields(Body)}
    frame = {key: value for key, value in plain.items() if key not in body}
    return Recipe.from_plain(frame, str(folder), Body())
