"""What a person sees: live progress on standard error, tables on standard output.

On a terminal progress is one live block; elsewhere it is plain lines, one a completed batch.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from evomerge.evolution import Search
from evomerge.history import Batch, Evaluation, History
from evomerge.methods import Method
from evomerge.params import show
from evomerge.run import JOURNAL, Listener, Record, Result
from evomerge.run.finish import interval_text, table_rows, table_title
from evomerge.run.loop import IntervalOf
from evomerge.run.preflight import Job

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
        made.width = 160
    return made


class Display(Listener):
    """Live progress of a search: a context manager and a listener.

    Args:
        quiet: show nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = console(err=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._job: Job | None = None
        self._search: Search | None = None
        self._interval: IntervalOf | None = None
        self._intervals: dict[tuple[int, int], str] = {}  # of the best so far only
        self._text = ""
        self._began = time.monotonic()
        self._arrived = 0

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(
                self._block(), console=self._console, refresh_per_second=4, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live:
            self._live.__exit__(None, None, None)
            self._live = None

    # -- listening ------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        self._text = text
        if self._live:
            self._live.update(self._block())
        else:
            self._line(f"{text} ...")

    def started(self, job: Job, search: Search, resumed: bool, interval: IntervalOf) -> None:
        self._job, self._search, self._interval = job, search, interval
        self._began = time.monotonic()
        journal = job.spec.folder / JOURNAL
        done = sum(len(search.evaluations(b.number)) for b in search.batches)
        verb = (
            f"resuming: {done} evaluations are in {journal}"
            if resumed
            else f"starting; journal: {journal}"
        )
        genes = f"{len(job.space.dims)} genes, {job.spec.optimizer}, population {search.plan.population}"
        self._line(f"{verb}\n{genes}, {job.spec.evaluations} evaluations before the shortlist")
        self.say("starting workers")

    def opened(self, batch: Batch) -> None:
        if not self._live:
            self._line(
                f"batch {batch.number}: {PHASES[batch.phase]}, {len(batch.candidates)} candidates"
            )
        self.waiting()

    def observed(self, evaluation: Evaluation, completed: bool) -> None:
        self._arrived += 1
        if evaluation.error:
            self._line(f"candidate {evaluation.candidate} failed: {evaluation.error}")
        if completed and not self._live:
            self._line(self._summary())
        self.waiting()

    def waiting(self) -> None:
        if self._live:
            self._live.update(self._block())

    def stopped(self, run_dir: str) -> None:
        """Say what is kept and how to go on."""
        if self._search is None:
            return
        done = sum(len(self._search.evaluations(b.number)) for b in self._search.batches)
        self._console.print(
            f"{done} evaluations are kept; go on with: evomerge resume {shlex.quote(run_dir)}",
            soft_wrap=True,
        )

    # -- drawing --------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, soft_wrap=True, markup=False)

    def _rate(self) -> float:
        """Evaluations per minute in this session."""
        return 60 * self._arrived / max(time.monotonic() - self._began, 1e-9)

    def _left(self) -> str:
        """Estimated time to the shortlist."""
        assert self._search is not None
        total = self._search.plan.evaluations
        done = sum(len(self._search.evaluations(b.number)) for b in self._search.batches)
        if self._arrived < 3 or done >= total or self._search.closed:
            return ""
        minutes = (total - done) / self._rate()
        return (
            f", about {minutes:.0f} min left"
            if minutes >= 1.5
            else f", about {60 * minutes:.0f} s left"
        )

    def _summary(self) -> str:
        assert self._search is not None
        done = sum(len(self._search.evaluations(b.number)) for b in self._search.batches)
        text = f"{done} evaluations, {self._rate():.1f} per minute{self._left()}"
        best = self._search.best
        if best is None:
            return text
        values = ", ".join(f"{name} {value:.3f}" for name, value in best.values.items())
        return f"{text}; best so far {self._best_text()} (#{best.candidate}: {values})"

    def _best_text(self) -> str:
        """Score of the best candidate so far, with the interval that its own items give."""
        assert self._search is not None and self._search.best is not None
        best = self._search.best
        at = (best.batch, best.candidate)
        if self._interval is not None and at not in self._intervals:
            self._intervals = {at: str(self._interval(*at))}
        return self._intervals[at]

    def _block(self) -> Group:
        if self._search is None or not self._search.batches:
            return Group(Text(f"{self._text} ...", style="dim"))
        search = self._search
        batch = search.batches[-1]
        arrived = len(search.evaluations(batch.number))
        done = sum(len(search.evaluations(b.number)) for b in search.batches)
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            console=self._console,
        )
        progress.add_task(
            "evaluations",
            completed=min(done, search.plan.evaluations),
            total=search.plan.evaluations,
        )
        progress.add_task(
            f"generation {batch.number}: {PHASES[batch.phase]}",
            completed=arrived,
            total=len(batch.candidates),
        )
        lines: list[Any] = [
            progress,
            Text(f"{self._rate():.1f} evaluations per minute{self._left()}", style="dim"),
        ]
        best = search.best
        if best is not None:
            lines.append(
                Text(
                    f"best so far: {self._best_text()}  (#{best.candidate}, search items)",
                    style="bold",
                )
            )
            lines.append(
                Text("  ".join(f"{name} {value:.3f}" for name, value in best.values.items()))
            )
        return Group(*lines)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int], None]]:
    """A bar for a known number of named steps; silent where there is no terminal."""
    with Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console(err=True),
        transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=None)

        def advance(name: str, total: int) -> None:
            progress.update(task, total=total, advance=1)

        yield advance


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
    """The models on the report split, with 95% intervals and paired differences to the winner."""
    heading, *rows = table_rows(table)
    winners = [row["candidate"] == table["winner"] for row in table["rows"]]
    _print_table(table_title(table), heading, rows, winners)


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
        "evaluations": record.evaluations,
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
