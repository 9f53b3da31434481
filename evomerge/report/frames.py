"""Exports of a run for other tools: CSV, Parquet, a study of Optuna's. A row, or a trial, is an evaluation."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from evomerge.evolution.history import Phase
from evomerge.record.record import Record
from evomerge.report.evaluations import GENE, OBJECTIVE, columns, rows
from evomerge.suite.objectives import counting
from evomerge.visible import encodable

SEARCHED = {str(phase) for phase in Phase if phase.searched}


def csv_of(record: Record) -> str:
    """As CSV; what is not known is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns(record)), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(
        {name: _no_formula(value) for name, value in row.items()} for row in rows(record)
    )
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    """A text as text also for a spreadsheet, which takes some beginnings for those of a formula."""
    if not isinstance(value, str) or (value[:1] not in ("\t", "\r") and not _FORMULA.match(value)):
        return value
    return f"'{value}"


# also in full width, and behind what a spreadsheet takes for nothing
_FORMULA = re.compile("[\\s\ufeff]*[=+@\uff1d\uff0b\uff0d\uff20-]")


def parquet_of(record: Record) -> bytes:
    """As Parquet; the file's own notes say which run it is."""
    import pyarrow
    from pyarrow import parquet

    kinds = {float: pyarrow.float64(), int: pyarrow.int64(), str: pyarrow.string()}
    schema = pyarrow.schema(
        [(name, kinds[kind]) for name, kind in columns(record).items()],
        metadata={
            "evomerge.run": encodable(record.head.digest),
            "evomerge.folder": encodable(record.folder.name),
        },
    )
    sink = pyarrow.BufferOutputStream()
    found = [
        {name: encodable(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows(record)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(found, schema), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_optuna(record: Record, path: Path) -> None:
    """As a study in an SQLite file: what base and parents, known recipes and the search scored on search items.

    Its value is the combined score; where a front was asked for, its values are the objectives that count.
    """
    from evomerge.optimizers.optuna.study import Trial, write_study

    wanted = counting(record.objectives) if record.head.content["fitness"].get("front") else []
    names = [f"{OBJECTIVE}{objective.name}" for objective in wanted] or ["score"]
    directions = ["maximize" if objective.maximize else "minimize" for objective in wanted] or [
        "maximize"
    ]
    trials = []
    for row in rows(record):
        if row["phase"] not in SEARCHED:
            continue
        values = [row.get(name) for name in names]
        trials.append(
            Trial(
                {name.removeprefix(GENE): g for name, g in row.items() if name.startswith(GENE)},
                None if None in values else [float(v) for v in values if v is not None],
                row["time"],
                row["seconds"],
                _attributes(row),
            )
        )
    about = {"run": record.head.digest, "evomerge": record.head.versions.get("evomerge", "")}
    write_study(
        path,
        record.folder.absolute().name,
        [name.removeprefix(OBJECTIVE) for name in names],
        directions,
        trials,
        about,
    )


def _attributes(row: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in row.items()
        if not name.startswith(GENE) and value is not None
    }
