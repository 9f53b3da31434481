"""The end of a search: the table on the report split, and the winner's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.errors import RunError
from evomerge.evolution import Search
from evomerge.journal import Journal
from evomerge.recipe import Recipe
from evomerge.run.events import stamped
from evomerge.run.finish import final_table
from evomerge.run.looks import Book
from evomerge.run.preflight import Job
from evomerge.run.provenance import with_provenance
from evomerge.run.record import remarks_on
from evomerge.run.scoring import Scoring
from evomerge.run.table_text import table_markdown

BEST, REPORT = "best.yaml", "report.md"


@dataclass(frozen=True)
class Result:
    """What a finished search leaves: the winner, and every model of the table on the report split.

    ``winner`` is None if every candidate of the shortlist failed; ``remarks`` say what was left out of the
    search, and how often these report items had been looked at before.
    """

    folder: Path
    winner: Recipe | None
    table: Mapping[str, Any]
    remarks: Sequence[str]


def end(job: Job, search: Search, scoring: Scoring, journal: Journal) -> Result:
    """Write the table into the journal, once, and it and the winner's recipe beside the journal.

    The look at the report items is recorded, once, also if it should have been by a process that died.

    Raises:
        RunError: they cannot be written.
    """
    folder = job.spec.folder
    ended = next((event for event in journal.events if event["event"] == "end"), None)
    if ended is None:
        ended = stamped("end", winner=search.winner, table=_table(job, search, scoring))
        journal.append(ended)
    book = Book(job.suite)
    looks = book.record(book.look(ended["time"], "search", str(folder), job.spec.digest))
    head = journal.events[0]
    remarks = [*remarks_on(search, head["budget"]), str(looks)]
    winner = None
    if search.winner is not None:
        objectives = job.suite.objectives
        winner = with_provenance(search, objectives, search.winner, head, ended["table"])
    try:
        told = "".join(f"* {remark}.\n" for remark in remarks)
        config.write_text(folder / REPORT, table_markdown(ended["table"]) + told)
        if winner is not None:
            config.write_text(folder / BEST, winner.to_yaml())
    except OSError as error:
        raise RunError(
            f"{folder}: the results cannot be written: {error.strerror}. The journal is complete: "
            "make room and resume the run, or use `evomerge export`"
        ) from None
    return Result(folder, winner, ended["table"], remarks)


def _table(job: Job, search: Search, scoring: Scoring) -> Mapping[str, Any]:
    report = search.batches[-1].number
    select = search.verdicts[-1].batch
    references = [c.id for c in search.batches[0].candidates]
    chosen = references if search.winner is None else [*references, search.winner]
    return final_table(
        search,
        job.suite,
        {
            candidate: scoring.results((report, candidate)) if evaluation.values else None
            for candidate, evaluation in search.evaluations(report).items()
        },
        job.spec.seed,
        selected={candidate: scoring.results((select, candidate)) for candidate in chosen},
        interval=scoring.interval,
    )
