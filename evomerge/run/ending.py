"""The end of a search: the table on the report split goes into the journal."""

from __future__ import annotations

from evomerge.errors import CandidateFailed, InputError
from evomerge.evolution.core import Search
from evomerge.evolution.history import History
from evomerge.judging.final import final_table
from evomerge.judging.table import Table
from evomerge.merging.estimate import estimate_rounding
from evomerge.record import clock
from evomerge.record.events import EndLine
from evomerge.record.journal import Journal
from evomerge.record.looks import Book
from evomerge.rounding import Rounding
from evomerge.run.preflight import Run
from evomerge.run.scoring import Scoring


def end(
    run: Run, search: Search, scoring: Scoring, journal: Journal, ended: EndLine | None
) -> EndLine:
    """Write the table of the newest report into the journal, unless it was (``ended``).

    The look at the report items is recorded, once, also if it should have been by a process that died.

    Raises:
        RunError: they cannot be written.
    """
    book = Book(run.suite)
    if ended is None:
        table = _table(run, search.history, scoring)
        ended = EndLine(time=clock.now(), table=table.plain, looks=str(book.read()))
        journal.append(ended.plain)
        search.history.end()
    book.record(book.look(ended.time, "search", str(run.spec.folder), run.spec.digest))
    return ended


def _table(run: Run, history: History, scoring: Scoring) -> Table:
    report = history.batches[-1].number
    select = history.verdicts[-1].batch
    references = [c.id for c in history.batches[0].candidates]
    chosen = references if history.winner is None else [*references, history.winner]
    return final_table(
        history,
        run.suite,
        {
            candidate: scoring.results((report, candidate)) if evaluation.values else None
            for candidate, evaluation in history.evaluations(report).items()
        },
        run.spec.seed,
        selected={candidate: scoring.results((select, candidate)) for candidate in chosen},
        interval=scoring.interval,
        rounding=_rounding(run, history),
    )


def _rounding(run: Run, history: History) -> Rounding | None:
    """What the dtype takes of the winner's changes; None without a winner, or where its models are gone by now:
    a search that is done is not to fail for that."""
    if history.winner is None:
        return None
    try:
        return estimate_rounding(history.candidates[history.winner].recipe, run.parents)
    except (InputError, CandidateFailed):
        return None
