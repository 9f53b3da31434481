"""Live progress on standard error.

On a terminal it is one live block; elsewhere it is plain lines, one a completed batch.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from evomerge.evolution.core import ENOUGH, Plan, Search
from evomerge.evolution.history import Batch, Evaluation
from evomerge.judging.final import IntervalOf
from evomerge.record.events import JOURNAL
from evomerge.report.terminal import PHASES, console, nearest_budget
from evomerge.run.loop import Listener
from evomerge.run.preflight import Run


class Display(Listener):
    """Live progress of a search: a context manager and a listener.

    Args:
        quiet: show nothing but warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = console(err=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._run: Run | None = None
        self._search: Search | None = None
        self._interval: IntervalOf | None = None
        self._intervals: dict[tuple[int, int], str] = {}  # of the best so far only
        self._text = ""
        self._began = time.monotonic()
        self._arrived = 0
        self._earlier = 0.0  # seconds worked in earlier sessions
        self._over = 0.0  # share of the budget that they used

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
            self._live.start()
            self._live.update(self._block())
        else:
            self._line(f"{text} ...")

    def downloading(self, text: str) -> None:
        if self._live:
            self._live.stop()
        self._line(text)

    def started(
        self, run: Run, search: Search, resumed: bool, interval: IntervalOf, seconds: float
    ) -> None:
        self._run, self._search, self._interval = run, search, interval
        self._began = time.monotonic()
        journal = run.spec.folder / JOURNAL
        done = search.history.arrived
        if search.history.done:
            self._line(f"finished already: {done} evaluations are in {journal}")
            return
        verb = (
            f"resuming: {done} evaluations are in {journal}"
            if resumed
            else f"starting; journal: {journal}"
        )
        genes = f"{len(run.space.dims)} genes, {run.spec.optimizer}, population {search.plan.population}"
        limits = ", ".join(f"{limit:,} {name}" for name, limit in self._budget.items() if limit)
        self._line(f"{verb}\n{genes}; at most {limits} before the shortlist")
        for name, why in run.untaught.items():
            self.noted(f"no slope of {name}, so descents do not see it: {why}")
        self._earlier = seconds
        self._over = self._share
        self.say("starting workers")

    def noted(self, text: str) -> None:
        self._line(f"note: {text}")

    def working(self, slots: int) -> None:
        assert self._search is not None
        if text := idle_text(self._search.plan, slots):
            self._line(text)

    def opened(self, batch: Batch) -> None:
        if not self._arrived:
            self._began = time.monotonic()  # the workers' start-up is no part of the rate
        if not self._live:
            self._line(
                f"batch {batch.number}: {PHASES[batch.phase]}, {len(batch.candidates)} candidates"
            )
        self.waiting()

    def decided(self, text: str) -> None:
        self._line(text)

    def closed(self, reason: str) -> None:
        self._line(f"the search phase ends: {reason}")

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
        done = self._search.history.arrived
        self._console.print(
            f"{done} evaluations are kept; go on with: evomerge resume {shlex.quote(run_dir)}",
            soft_wrap=True,
        )

    # -- drawing --------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, soft_wrap=True)

    def _rate(self) -> float:
        """Evaluations per minute in this session."""
        return 60 * self._arrived / max(time.monotonic() - self._began, 1e-9)

    @property
    def _budget(self) -> dict[str, float | None]:
        assert self._run is not None
        extended = self._search.history.limits if self._search else {}
        return {**self._run.spec.budget, **extended}

    @property
    def _spent(self) -> dict[str, float]:
        assert self._search is not None
        seconds = self._earlier + time.monotonic() - self._began
        return {**asdict(self._search.history.spent), "hours": seconds / 3600}

    @property
    def _share(self) -> float:
        """How much is used of the budget that is nearest its end."""
        name = nearest_budget(self._budget, self._spent)
        return min(1.0, self._spent[name] / (self._budget[name] or 1))

    def _left(self) -> str:
        """Estimated time to the shortlist."""
        assert self._search is not None
        share = self._share
        if self._arrived < 3 or not self._over < share < 1 or self._search.history.closed:
            return ""
        minutes = (1 - share) / (share - self._over) * (time.monotonic() - self._began) / 60
        return (
            f", about {minutes:.0f} min left"
            if minutes >= 1.5
            else f", about {60 * minutes:.0f} s left"
        )

    def _summary(self) -> str:
        assert self._search is not None
        done = self._search.history.arrived
        text = f"{done} evaluations, {self._rate():.1f} per minute{self._left()}"
        best = self._search.history.best
        if best is None:
            return text
        return f"{text}; best so far #{best.candidate}: {self._best_text()}"

    def _best_text(self) -> str:
        """Score of the best candidate so far, with the interval that its own items give."""
        assert self._search is not None and self._search.history.best is not None
        best = self._search.history.best
        at = (best.batch, best.candidate)
        if self._interval is not None and at not in self._intervals:
            interval = self._interval(*at)
            text = str(interval)
            if interval.low == interval.high:
                text = f"{interval.value:.2f} (exact on the search items)"
            elif interval.why:
                text = f"{interval.value:.2f} (its error is unknown)"
            self._intervals = {at: text}
        return self._intervals[at]

    def _block(self) -> Group:
        if self._search is None or not self._search.history.batches:
            return Group(Text(f"{self._text} ...", style="dim"))
        search = self._search.history
        batch = search.batches[-1]
        arrived = len(search.evaluations(batch.number))
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            console=self._console,
        )
        name = nearest_budget(self._budget, self._spent)
        limit = self._budget[name] or 1
        used = int(min(self._spent[name], limit))
        progress.add_task(name, completed=used, total=limit)
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
                    f"best so far #{best.candidate}: {self._best_text()}",
                    style="bold",
                )
            )
        return Group(*lines)


def idle_text(plan: Plan, slots: int) -> str:
    """What to say if so many workers will not be kept busy; empty if they will."""
    asked = plan.together
    if slots < 2 or asked >= ENOUGH * slots:
        return ""
    lag = -(-ENOUGH * slots // plan.population)
    idle = f"{slots - asked} of them always idle" if asked < slots else "some of them idle"
    return (
        f"{slots} workers, but at most {asked} candidates (population {plan.population} x lag {plan.lag}) are "
        f"under way at a time: {idle}. In a new run, `lag: {lag}` or a larger population keeps all busy; what an "
        "optimizer learns it then learns later"
    )


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int], None]]:
    """A bar for a known number of named steps, from the first one on; silent where there is no terminal."""
    progress = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console(err=True),
        transient=True,
        disable=not console(err=True).is_terminal,
    )  # fmt: skip
    task = progress.add_task(what, total=None)

    def advance(name: str, total: int) -> None:
        progress.start()  # not before: a download has bars of its own
        progress.update(task, total=total, advance=1)

    try:
        yield advance
    finally:
        progress.stop()
