"""Tables and texts on standard output: what a person reads when a command is done."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from evomerge.evolution.history import History, Phase
from evomerge.inference.intervals import Interval
from evomerge.judging.table import Count, interval_from
from evomerge.judging.table import Table as FinalTable
from evomerge.params import show
from evomerge.record.holder import Holder, holder_of
from evomerge.record.record import Record
from evomerge.report.files import Result
from evomerge.report.text import (
    beside_rows,
    beside_title,
    count_text,
    interval_text,
    table_notes,
    table_rows,
    table_title,
)
from evomerge.suite.ranges import ANY, Range, ranges
from evomerge.visible import one_line, visible

if TYPE_CHECKING:
    from evomerge.methods import Method

PHASES: Mapping[str, str] = {
    Phase.REFERENCES: "base and parents",
    Phase.START: "known recipes",
    Phase.SEARCH: "search",
    Phase.ROWS: "row weights",
    Phase.SELECT: "re-scoring the shortlist",
    Phase.REPORT: "final report",
}
Cells = tuple[str, ...]
WIDTH = 80  # columns, where no terminal tells another


class Screen(Console):
    """A console for text from files: no markup, no emoji, and no character that commands a terminal.

    All that is printed passes through ``render``; what moves the cursor of a live display is made by
    rich itself, as control segments, and stays.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isalnum():
                yield segment
            else:
                yield segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> None:
        """The reader left, which the command line knows: rich alone would exit with status 1."""
        raise  # rich asks while it handles a BrokenPipeError


def console(*, err: bool = False) -> Console:
    """As wide as its terminal; where there is none, as ``COLUMNS`` says, or 80."""
    made = Screen(stderr=err, soft_wrap=not sys.stdout.isatty())
    if not made.is_terminal:
        said = os.environ.get("COLUMNS", "")
        made.width = int(said) if said.isdecimal() and int(said) > 0 else WIDTH
    return made


def clear() -> None:
    """Begin anew at the top of a terminal; elsewhere leave a line between what was shown and what comes."""
    screen = console()
    if screen.is_terminal:
        screen.clear()
    else:
        screen.print()


def show_lines(lines: Sequence[str]) -> None:
    """Plain lines on standard output."""
    for line in lines:
        console().print(line, soft_wrap=True)


def _print_table(
    title: str, columns: Sequence[str], rows: Sequence[Cells], bold: Sequence[bool] = ()
) -> None:
    table = Table(
        title=one_line(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    widths = [max(map(len, column)) + 3 for column in zip(columns, *rows, strict=True)]
    fits = (
        sum(widths) <= console().width
    )  # where it does not, cells are broken, and none is cut off
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if number == 0 else "right"
        table.add_column(one_line(column), justify=justify, no_wrap=fits, overflow="fold")
    for number, row in enumerate(rows):
        style = "bold" if bold and bold[number] else ""
        table.add_row(*map(one_line, row), style=style)
    console().print(table)


# -- tables --------------------------------------------------------------------------------------


def show_table(table: FinalTable) -> None:
    """The models on the report split, with 95% intervals and paired differences to the winner.

    On a narrow terminal they make several tables, the objectives last.
    """
    winners = [row.candidate == table.winner for row in table.rows]
    _show_rows(table, table_title(table), table_rows(table), winners)
    if table.beside:
        _show_rows(table, beside_title(table), beside_rows(table))
    show_lines(table_notes(table))


def _show_rows(
    table: FinalTable, title: str, rows: Sequence[Cells], bold: Sequence[bool] = ()
) -> None:
    """Rows that begin with their heading, in as many tables as the screen is wide enough for."""
    widths = [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]
    numbers = list(range(1, len(widths)))
    groups = [numbers]
    if sum(widths) > console().width:
        objectives = [n for n in numbers if rows[0][n] in table.items]
        others = [n for n in numbers if n not in objectives]
        room = console().width - widths[0]
        groups = [*_filled(others, widths, room), *_filled(objectives, widths, room)]
    for place, group in enumerate(groups):
        texts = [tuple(row[n] for n in (0, *group)) for row in rows]
        _print_table("the same, continued" if place else title, texts[0], texts[1:], bold)


def _filled(columns: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    """``columns`` in order, in groups whose widths fit into ``room``."""
    groups: list[list[int]] = []
    left = 0
    for column in columns:
        left -= widths[column]
        if not groups or left < 0:
            groups.append([])
            left = room - widths[column]
        groups[-1].append(column)
    return groups


def command_for(result: Result) -> str:
    """What to type next."""
    if result.winner is None:
        return "every candidate of the shortlist failed; see the journal for the reasons"
    best = shlex.quote(str(result.folder / "best.yaml"))
    return f"\nrecipe: {best}\nmaterialize it with: evomerge merge {best} -o merged-model"


def nearest_budget(budget: Mapping[str, float | None], spent: Mapping[str, float]) -> str:
    """The budget that is nearest its end."""
    limits = {name: limit for name, limit in budget.items() if limit}
    return max(limits, key=lambda name: spent[name] / limits[name])


def budget_text(budget: Mapping[str, float | None], spent: Mapping[str, float]) -> str:
    """What is spent of each budget, and which one is nearest its end where there are several."""
    parts = [
        f"{spent[name]:.1f} of {limit:g} hours"
        if name == "hours"
        else f"{spent[name]:,} of {limit:,} {name}"
        for name, limit in budget.items()
        if limit
    ]
    text = ", ".join(parts)
    return (
        f"{text} ({nearest_budget(budget, spent)} will run out first)" if len(parts) > 1 else text
    )


def status_of(record: Record) -> dict[str, Any]:
    """The state of a run as plain data."""
    history: History = record.history
    best, holder = history.best, holder_of(record.folder)
    return {
        "run": str(record.folder),
        "phase": "done" if record.table and history.done else history.phase or "starting",
        "running": holder is not None and holder.running is True,
        "holder": holder and holder.plain,
        "last_event": record.newest,
        "seconds_left": _left(holder),
        "evaluations": history.arrived,
        "candidates_tried": history.tried,
        "budget": dict(record.budget),
        "spent": {**asdict(history.spent), "hours": round(record.seconds / 3600, 4)},
        "worked": record.worked,
        "batches": len(history.batches),
        "failed": history.failed,
        "seconds": round(record.seconds, 1),
        "best": None
        if best is None
        else {
            "candidate": best.candidate,
            "origin": history.candidates[best.candidate].origin,
            "search_score": best.score.value,
            "search_interval": _bounds(record.best_interval, record.best_ends),
            "feasible": best.score.feasible,
            "values": dict(best.values),
            "errors": history.evaluations(best.batch)[best.candidate].errors,
        },
        "winner": history.winner if record.table and history.done else None,
        "remarks": record.remarks,
        "table": record.table and record.table.plain,
    }


def _left(holder: Holder | None) -> float | None:
    """Seconds to the final table as announced, less those that went by since; None where nobody tells."""
    if holder is None or holder.running is False or holder.left is None or holder.announced is None:
        return None
    since = max(0.0, time.time() - holder.announced)
    return round(max(1.0, holder.left - since), 1)


def _bounds(interval: Interval | None, ends: Range) -> list[float] | None:
    """Of an interval, for JSON, cut to what is possible; None if they are not known."""
    if interval is None or interval.why:
        return None
    shown = interval.within(*ends)
    return [shown.low, shown.high]


def searched_text(interval: Interval, ends: Range, *, whole: bool, digits: int = 3) -> str:
    """What was measured on the search split, with its 95% interval, cut where the metric ends.

    Args:
        interval: around the estimate.
        ends: the least and the greatest value that there can be.
        whole: whether all search items were asked: only then can it be exact.
        digits: after the point.
    """
    shown = interval.within(*ends)
    if interval.why:
        return f"{shown.value:.{digits}f} (error unknown)"
    if interval.low == interval.high:
        why = "exact on the search items" if whole else "all alike on a sample: error unknown"
        return f"{shown.value:.{digits}f} ({why})"
    return f"{shown.value:.{digits}f} [{shown.low:.{digits}f}, {shown.high:.{digits}f}]"


def _running_text(status: Mapping[str, Any]) -> str:
    """Whether somebody works on it, and when something happened last."""
    ago = duration_text(max(0.0, time.time() - status["last_event"]))
    holder, last = status["holder"], f"last event {ago} ago"
    if holder is None:
        done = status["phase"] == "done"
        return f"not running; {last}" + (
            "" if done else f"; go on with: evomerge search {shlex.quote(status['run'])}"
        )
    who = f"pid {holder['pid']} on {holder['host']}"
    if (left := status["seconds_left"]) is not None:
        since = duration_text(max(0.0, time.time() - holder["announced"]))
        last += f"; about {duration_text(left)} to the final table (announced {since} ago)"
    if (limit := holder["limit"]) is not None:
        last += f"; a job that tells nothing for {duration_text(limit)} counts as hung"
    if holder["running"]:
        return f"running: {who}; {last}"
    if holder["running"] is None:
        return f"begun by {who}; whether that still runs cannot be told from here; {last}"
    return f"not running: {who} was killed; {last}; go on with: evomerge search {shlex.quote(status['run'])}"


def duration_text(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def show_status(record: Record) -> None:
    """``evomerge status``."""
    status = status_of(record)
    minutes = status["seconds"] / 60
    lines = [
        f"{status['run']}: {PHASES.get(status['phase'], status['phase'])}",
        _running_text(status),
        f"{status['evaluations']} evaluations of {status['candidates_tried']} merges, base and parents in {status['batches']} batches, {minutes:.1f} minutes of work, "
        f"{status['failed']} failed",
        f"before the shortlist: {budget_text(status['budget'], status['spent'])}",
    ]
    best = status["best"]
    if best:
        errors, ends = best["errors"] or {}, ranges(record.objectives)
        whole = record.best_whole
        texts = {
            name: searched_text(
                Interval.around(value, errors.get(name)), ends.get(name, ANY), whole=whole
            )
            for name, value in best["values"].items()
        }
        score = record.best_interval or Interval.unknown(best["search_score"], "error unknown")
        lines.append(
            f"best by search score, hence likely too good: #{best['candidate']} ({best['origin']}) "
            f"{searched_text(score, record.best_ends, whole=whole)}: "
            + ", ".join(f"{name} {text}" for name, text in texts.items())
            + " (95% intervals, on the search items, cut where a metric ends)"
        )
    lines += [f"{remark}." for remark in status["remarks"]]
    show_lines([one_line(line) for line in lines])  # none that a text of the run made
    if record.table:
        show_table(record.table)


def show_scores(scores: Mapping[str, Any]) -> None:
    """``evomerge score``."""
    rows = [
        (name, interval_text(interval_from(row)), count_text(Count(row["items"], row["sources"])))
        for name, row in scores["objectives"].items()
    ]
    _print_table(
        f"{scores['model']} on the {scores['split']} split (95% intervals)",
        ("objective", "value", "from"),
        rows,
    )
    signals = [
        (task, signal, interval_text(interval_from(row)))
        for task, found in scores["signals"].items()
        for signal, row in found.items()
    ]
    if signals:
        _print_table("signals", ("task", "signal", "mean"), signals)
    if scores["looks"]:
        show_lines([f"{scores['looks']['text']}."])


# -- methods -------------------------------------------------------------------------------------


def describe(method: Method) -> dict[str, Any]:
    """A method's declaration as plain data."""
    return {
        "name": method.name,
        "summary": method.summary,
        "base": method.base,
        "models": [method.min_models, method.max_models],
        "paper": method.paper,
        "statistics": dict(method.statistics),
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
    told = _told(method.doc)
    show_lines([method.name, "", told, "", f"models: {method.takes}   paper: {method.paper}", ""])
    if method.statistics:
        named = ", ".join(f"{name} ({need})" for name, need in method.statistics.items())
        show_lines([f"statistics: {named}; see `evomerge measure --help`", ""])
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
    if rows:
        _print_table("parameters", ("name", "scope", "values", "default", "searched"), rows)
    show_lines([f"{p.name}: {p.doc}" for p in method.parameters])


def _told(doc: str) -> str:
    """A kernel's docstring without what only its caller needs: arguments and result."""
    found = re.sub(r"^(?:Args|Returns|Raises):\n(?:(?: .*)?\n)*", "", f"{doc}\n", flags=re.M)
    return found.strip()
