"""What a finished search leaves beside its record: the winner's recipe and the table, to read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge import config
from evomerge.errors import RunError
from evomerge.judging.table import Table
from evomerge.recipe import Recipe
from evomerge.record.record import Record
from evomerge.report.text import markdown_text, table_markdown
from evomerge.report.why import why_markdown

BEST, REPORT = "best.yaml", "report.md"


@dataclass(frozen=True)
class Result:
    """What a finished search found: the winner, and every model of the table on the report split.

    ``winner`` is None if every candidate of the shortlist failed; ``remarks`` say what was left out of the
    search, and how often these report items had been looked at before.
    """

    folder: Path
    winner: Recipe | None
    table: Table
    remarks: Sequence[str]


def result_of(record: Record) -> Result:
    """What the record of a finished search holds."""
    table = record.table
    assert table is not None, "the search is not finished"
    winner = None if table.winner is None else record.recipe(table.winner)
    return Result(record.folder, winner, table, record.remarks)


def result_markdown(table: Table, remarks: Sequence[str]) -> str:
    """What ``report.md`` says of the result."""
    return table_markdown(table) + "".join(f"* {markdown_text(remark)}.\n" for remark in remarks)


def report_text(record: Record) -> str:
    """What ``report.md`` of a finished search says."""
    result = result_of(record)
    why = "" if result.winner is None else why_markdown(record)
    return result_markdown(result.table, result.remarks) + why


def write(record: Record) -> Result:
    """Write what people read of a finished search into its folder; again gives the same.

    Raises:
        RunError: it cannot be written, and was not before.
        InputError: the winner's row weights are gone.
    """
    result = result_of(record)
    if (record.folder / REPORT).is_file() and not os.access(record.path, os.W_OK):
        return result  # it was written, before the storage became read-only
    try:
        config.write_text(record.folder / REPORT, report_text(record))
        if result.winner is not None:
            result.winner.save(record.folder / BEST)
    except OSError as error:
        raise RunError(
            f"{record.folder}: the results cannot be written: {error.strerror}. The journal is complete: "
            "make room and resume the run, or use `evomerge export`"
        ) from None
    return result
