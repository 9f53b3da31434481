"""The reader of a run, from its journal alone: no models, tasks or libraries needed, also while it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.evolution.history import History, Phase
from evomerge.inference.intervals import Interval
from evomerge.judging.evidence import search_interval
from evomerge.judging.table import Table
from evomerge.recipe import Body, Recipe
from evomerge.record import events
from evomerge.record.provenance import with_provenance
from evomerge.record.responses import Store
from evomerge.suite.objectives import combine, yardsticks


class Record:
    """What a journal tells of its run.

    Attributes:
        folder: the run's folder.
        lines: the events of the journal.
        head: the first of them.
        objectives: what the run optimizes.
        history: candidates, evaluations and scores.

    Raises:
        InputError: there is no journal, or it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.suffix in (".yaml", ".yml"):
            self.folder = self.folder.parent
        path = self.folder / events.JOURNAL
        if not path.is_file():
            raise InputError(
                f"{path}: no such file: nothing was searched here yet (see `evomerge search`), or this is not the "
                "folder of a run"
            )
        self._read(path)

    def _read(self, path: Path) -> None:
        self.lines = events.read_lines(path)
        if not self.lines:
            raise InputError(f"{path}: is empty: the search in this folder did not begin yet")
        head = self.lines[0]
        assert isinstance(head, events.Head)
        self.head = head
        self.objectives = head.objectives
        with events.reading(path, 1):
            template = self.template
        self.history = History(
            lambda values, references, gains: combine(
                self.objectives, head.combine, values, references, gains
            ),
            lambda references: yardsticks(self.objectives, references),
        )
        for number, line in enumerate(self.lines, start=1):
            with events.reading(path, number):
                events.fold(self.history, line, template)

    @cached_property
    def template(self) -> Recipe:
        """The run's models, dtype and seed, without a body (kept apart: a recipe needs one)."""
        return template_from(self.head.template, self.folder)

    @cached_property
    def end(self) -> events.EndLine | None:
        """The event that ends a search; None before."""
        return next((line for line in self.lines if isinstance(line, events.EndLine)), None)

    @cached_property
    def table(self) -> Table | None:
        """The table on the report split; None before the end."""
        return None if self.end is None else self.end.final

    @property
    def seconds(self) -> float:
        """Seconds worked so far, over all sessions."""
        return events.seconds_worked(self.lines)

    @property
    def best_interval(self) -> Interval | None:
        """The search score of the best merge so far, and how far off it may be; None before there is one."""
        best = self.history.best
        if best is None:
            return None
        return search_interval(self.history, self.objectives, best.batch, best.candidate)

    @property
    def remarks(self) -> list[str]:
        """What the run left out that it could have done, and how often its report items had been seen."""
        looks = [self.end.looks] if self.end else []
        return [*remarks_on(self.history, self.head.budget), *looks]

    def open_responses(self) -> Store:
        """Every answer of the run, for reading; close it after use.

        Raises:
            InputError: the store is absent or damaged.
        """
        return Store.open(
            self.folder / events.RESPONSES,
            self.head.inventory,
            events.blocks(self.lines),
            writable=False,
        )

    def recipe(self, candidate: int) -> Recipe:
        """The portable recipe of a candidate, with its provenance.

        Raises:
            InputError: there is no such candidate.
        """
        if candidate not in self.history.candidates:
            last = len(self.history.candidates) - 1
            raise InputError(f"{self.folder}: no candidate {candidate}; there are 0 to {last}")
        return with_provenance(self.history, self.objectives, candidate, self.head, self.table)


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
        limits += [f"out of {history.closed}"] if history.closed else []
        found.append(
            "no generation was searched: base, parents and known recipes left too little of the budget "
            f"({', '.join(limits)})"
        )
    if history.verdicts and (why := history.verdicts[0].unraced):
        found.append(f"the shortlist answered the whole select split, without a race: {why}")
    return found


def template_from(plain: Mapping[str, Any], folder: Path) -> Recipe:
    """A recipe without groups from plain data."""
    passthrough = [{"method": "passthrough", "models": [next(iter(plain["models"]))]}]
    return replace(Recipe.from_plain({**plain, "groups": passthrough}, str(folder)), body=Body())
