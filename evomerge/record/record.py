"""A run read from its journal alone: no models, tasks or libraries needed, also while it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.evolution.history import History
from evomerge.judging.evidence import search_interval
from evomerge.judging.table import Table
from evomerge.recipe import Recipe
from evomerge.record import events
from evomerge.record.provenance import with_provenance
from evomerge.record.responses import Store
from evomerge.statistics.intervals import Interval
from evomerge.suite.objectives import Objective, combine, yardsticks


class Record:
    """What a journal tells of its run.

    Attributes:
        folder: the run's folder.
        events: as they stand in the journal.
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
                f"{path}: no such file: nothing was searched here yet (see `evomerge search`)"
            )
        self.events = events.read_events(path)
        if not self.events:
            raise InputError(f"{path}: is empty: the search in this folder did not begin yet")
        self.head = self.events[0]
        with events.reading(path, 1):
            self.objectives = tuple(map(Objective.from_plain, self.head["objectives"]))
            template = self.template
        how = self.head["combine"]
        self.history = History(
            lambda values, references, gains: combine(
                self.objectives, how, values, references, gains
            ),
            lambda references: yardsticks(self.objectives, references),
        )
        for line, event in enumerate(self.events, start=1):
            with events.reading(path, line):
                events.fold(self.history, event, template)

    @cached_property
    def template(self) -> Recipe:
        """The run's models, dtype and seed, without groups (kept apart: a recipe needs one)."""
        return template_from(self.head["template"], self.folder)

    @cached_property
    def table(self) -> Table | None:
        """The table on the report split; None before the end."""
        ended = next((event for event in self.events if event["event"] == "end"), None)
        return None if ended is None else Table.from_plain(ended["table"])

    @property
    def seconds(self) -> float:
        """Seconds worked so far, over all sessions."""
        return events.seconds_worked(self.events)

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
        looks = [event["looks"] for event in self.events if event["event"] == "end"]
        return [*remarks_on(self.history, self.head["budget"]), *looks]

    def open_responses(self) -> Store:
        """Every answer of the run, for reading; close it after use.

        Raises:
            InputError: the store is absent or damaged.
        """
        return Store.open(
            self.folder / events.RESPONSES,
            events.inventory(self.head),
            events.places(self.events),
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
    found = []
    if "select" in phases and "search" not in phases:
        limits = [
            f"{spent[name]:,} of {limit:,} {name}"
            for name, limit in budget.items()
            if limit and name in spent
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
    return replace(Recipe.from_plain({**plain, "groups": passthrough}, str(folder)), groups=())
