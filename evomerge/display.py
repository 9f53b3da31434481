"""Tables and texts on standard output: what a person reads when a command is done."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evomerge.history import History
from evomerge.methods import Method
from evomerge.params import show
from evomerge.run import Record, Result
from evomerge.run.finish import interval_text, table_rows, table_title

PHASES = {
    "references": "base and parents",
    "start": "known recipes",
    "search": "search",
    "select": "re-scoring the shortlist",
    "report": "final report",
}
Row = tuple[str, ...]


def console(*, err: bool = False) -> Console:
    """Wide enough for tables when the output is not a terminal."""
    made = Console(stderr=err, highlight=False, soft_wrap=not sys.stdout.isatty())
    if not made.is_terminal:
        made.width = 200
    return made


def show_lines(lines: Sequence[str]) -> None:
    """Plain lines on standard output."""
    for line in lines:
        console().print(line, markup=False, soft_wrap=True)


def _print_table(
    title: str, columns: Sequence[str], rows: Sequence[Row], bold: Sequence[bool] = ()
) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if bold and bold[number] else "")
    console().print(table)


# -- tables --------------------------------------------------------------------------------------


def show_table(table: Mapping[str, Any]) -> None:
    """The models on the report split, with 95% intervals and paired differences to the winner.

    On a narrow terminal the objectives make a table of their own, without intervals.
    """
    rows = table_rows(table)
    winners = [row["candidate"] == table["winner"] for row in table["rows"]]
    width = sum(max(map(len, column)) + 3 for column in zip(*rows, strict=True))
    if width <= console().width:
        _print_table(table_title(table), rows[0], rows[1:], winners)
        return
    outer = [(row[0], row[1], row[-1]) for row in rows]
    _print_table(table_title(table), outer[0], outer[1:], winners)
    inner = [(row[0], *(text.split(" ")[0] for text in row[2:-1])) for row in rows]
    _print_table("objectives", inner[0], inner[1:], winners)


def command_for(result: Result) -> str:
    """What to type next."""
    if result.winner is None:
        return "every candidate of the shortlist failed; see the journal for the reasons"
    best = shlex.quote(str(result.folder / "best.yaml"))
    return f"\nrecipe: {best}\nmaterialize it with: evomerge merge {best} -o merged-model"


def status_of(record: Record) -> dict[str, Any]:
    """The state of a run as plain data."""
    history: History = record.history
    best = history.best
    return {
        "run": str(record.folder),
        "phase": "done" if record.table else history.phase or "starting",
        "evaluations": history.arrived,
        "budget": record.head["evaluations"],
        "batches": len(history.batches),
        "failed": sum(
            e.values is None
            for b in history.batches
            for e in history.evaluations(b.number).values()
        ),
        "seconds": round(record.seconds, 1),
        "best": None
        if best is None
        else {
            "candidate": best.candidate,
            "origin": history.candidates[best.candidate].origin,
            "search_score": best.score.value,
            "feasible": best.score.feasible,
            "values": dict(best.values),
        },
        "winner": history.winner if record.table else None,
        "table": record.table,
    }


def show_status(status: Mapping[str, Any]) -> None:
    """``evomerge status``."""
    minutes = status["seconds"] / 60
    lines = [
        f"{status['run']}: {PHASES.get(status['phase'], status['phase'])}",
        f"{status['evaluations']} evaluations ({status['budget']} before the shortlist) in {status['batches']} "
        f"batches, {minutes:.1f} minutes of work, {status['failed']} failed",
    ]
    best = status["best"]
    if best:
        values = ", ".join(f"{name} {value:.3f}" for name, value in best["values"].items())
        lines.append(
            f"best by search score: #{best['candidate']} ({best['origin']}) {best['search_score']:.3f}: {values}"
        )
    show_lines(lines)
    if status["table"]:
        show_table(status["table"])


def show_scores(scores: Mapping[str, Any]) -> None:
    """``evomerge score``."""
    rows = [
        (name, interval_text(row), str(row["items"])) for name, row in scores["objectives"].items()
    ]
    _print_table(
        f"{scores['model']} on the {scores['split']} split (95% intervals)",
        ("objective", "value", "items"),
        rows,
    )


# -- methods -------------------------------------------------------------------------------------


def describe(method: Method) -> dict[str, Any]:
    """A method's declaration as plain data."""
    return {
        "name": method.name,
        "summary": method.summary,
        "base": method.base,
        "models": [method.min_models, method.max_models],
        "elementwise": method.elementwise,
        "paper": method.paper,
        "parameters": [
            {
                "name": p.name,
                "per_model": p.per_model,
                "values": str(p.domain),
                "default": p.default,
                "searched": p.searched,
                "doc": p.doc,
            }
            for p in method.parameters
        ],
    }


def show_methods(found: Sequence[Method]) -> None:
    """``evomerge methods``."""
    rows = [
        (method.name, method.takes, ", ".join(p.name for p in method.parameters), method.summary)
        for method in found
    ]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("method", "models", "parameters", "what it does"):
        table.add_column(column, no_wrap=column == "method")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def show_method(method: Method) -> None:
    """``evomerge methods NAME``."""
    show_lines(
        [method.name, "", method.doc, "", f"models: {method.takes}   paper: {method.paper}", ""]
    )
    rows = [
        (
            p.name,
            "per model" if p.per_model else "shared",
            str(p.domain),
            show(p.default),
            "yes" if p.searched else "if named",
        )
        for p in method.parameters
    ]
    _print_table("parameters", ("name", "scope", "values", "default", "searched"), rows)
