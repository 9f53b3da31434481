"""The end of a search: the table on the report split goes into the journal."""

from __future__ import annotations

from evomerge.evolution.core import Search
from evomerge.judging.final import final_table
from evomerge.judging.table import Table
from evomerge.record.events import stamped
from evomerge.record.journal import Journal
from evomerge.record.looks import Book
from evomerge.run.preflight import Run
from evomerge.run.scoring import Scoring


def end(run: Run, search: Search, scoring: Scoring, journal: Journal) -> None:
    """Write the table into the journal, once.

    The look at the report items is recorded, once, also if it should have been by a process that died.

    Raises:
        RunError: they cannot be written.
    """
    book = Book(run.suite)
    ended = next((event for event in journal.events if event["event"] == "end"), None)
    if ended is None:
        table = _table(run, search, scoring)
        ended = stamped("end", winner=search.winner, table=table.plain, looks=str(book.read()))
        journal.append(ended)
    book.record(book.look(ended["time"], "search", str(run.spec.folder), run.spec.digest))


def _table(run: Run, search: Search, scoring: Scoring) -> Table:
    report = search.batches[-1].number
    select = search.verdicts[-1].batch
    references = [c.id for c in search.batches[0].candidates]
    chosen = references if search.winner is None else [*references, search.winner]
    return final_table(
        search,
        run.suite,
        {
            candidate: scoring.results((report, candidate)) if evaluation.values else None
            for candidate, evaluation in search.evaluations(report).items()
        },
        run.spec.seed,
        selected={candidate: scoring.results((select, candidate)) for candidate in chosen},
        interval=scoring.interval,
    )
