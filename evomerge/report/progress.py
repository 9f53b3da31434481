"""Live progress on standard error.

On a terminal it is one live block; elsewhere it is plain lines, one a completed batch.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from evomerge.evolution.archive import Elite
from evomerge.evolution.core import ENOUGH, Plan, Search
from evomerge.evolution.history import MERGED, Batch, Phase
from evomerge.evolution.outlook import Outlook
from evomerge.judging.evidence import score_range
from evomerge.judging.final import IntervalOf
from evomerge.pool import Slot
from evomerge.record import clock
from evomerge.record.events import JOURNAL, EvaluationLine, read_lines
from evomerge.record.holder import announce
from evomerge.report.sparkline import Course
from evomerge.report.terminal import (
    PHASES,
    console,
    duration_text,
    nearest_budget,
    searched_text,
)
from evomerge.run.course import course_of
from evomerge.run.loop import Listener, Look
from evomerge.run.preflight import Run
from evomerge.suite.splits import Split


@dataclass(frozen=True)
class View:
    """What the live block shows, taken in the thread that works: another one draws it.

    Attributes:
        bars: of the budget and of the batch: what, done, of how much.
        rate: evaluations a minute.
        left: seconds to the final table, when it was taken; None where nothing can be said.
        best: the best so far, in words.
        course: how the best went.
        taken: when, by the monotonic clock.
    """

    bars: tuple[tuple[str, int, int], ...]
    rate: float
    left: float | None
    best: str
    course: str
    taken: float


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
        self._text = "starting"
        self._began = time.monotonic()
        self._arrived = 0
        self._earlier = 0.0  # seconds worked in earlier sessions
        self._outlook: Outlook | None = None
        self._course = Course()
        self._look: Look = tuple
        self._view: View | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(
                console=self._console,
                refresh_per_second=4,
                transient=True,
                get_renderable=self._block,
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
            self._live.refresh()
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
        self._outlook = Outlook(course_of(run, search), seconds=seconds, lag=run.spec.lag)
        self._remember(journal)
        self.say("starting workers")

    def _remember(self, journal: Path) -> None:
        """What earlier sessions took, and how the best went."""
        assert self._search is not None and self._outlook is not None
        history = self._search.history
        for line in read_lines(journal) if history.arrived else ():
            if isinstance(line, EvaluationLine):
                batch = history.batches[line.batch]
                self._outlook.add(batch, line.evaluation, line.seconds, line.time)
        best = None
        for elite in history.merges():
            if best is None or elite.score.rank > best.rank:
                best = elite.score
            self._course.add(best.value)
        self._outlook.begin(clock.now())

    def noted(self, text: str) -> None:
        self._line(f"note: {text}")

    def working(self, slots: int, look: Look) -> None:
        assert self._search is not None and self._outlook is not None
        self._outlook.slots, self._look = slots, look
        if text := idle_text(self._search.plan, slots):
            self._line(text)

    def opened(self, batch: Batch) -> None:
        if not self._arrived:
            self._began = time.monotonic()  # the workers' start-up is no part of the rate
        if not self._live:
            self._line(
                f"batch {batch.number}: {PHASES[batch.phase]}, {len(batch.candidates)} candidates"
            )
        self._take()

    def decided(self, text: str) -> None:
        self._line(text)

    def closed(self, reason: str) -> None:
        self._line(f"the search phase ends: {reason}")

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        assert self._search is not None and self._outlook is not None
        self._arrived += 1
        history = self._search.history
        batch = history.batches[line.batch]
        self._outlook.add(batch, line.evaluation, line.seconds, line.time)
        if completed and history.best is not None and batch.phase in MERGED:
            for _ in batch.candidates:
                self._course.add(history.best.score.value)
        if line.error:
            self._line(f"candidate {line.candidate} failed: {line.error}")
        if completed and not self._live:
            self._line(self._summary())
        self._take()
        self._announce()

    def waiting(self) -> None:
        self._announce()

    def stopped(self, run_dir: str) -> None:
        """Say what is kept and how to go on."""
        if self._search is None:
            return
        done = self._search.history.arrived
        self._console.print(
            f"{done} evaluations are kept; go on with: evomerge resume {shlex.quote(run_dir)}",
            soft_wrap=True,
        )

    # -- what there is to show ------------------------------------------------------------------

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
    def _elapsed(self) -> float:
        """Seconds worked on this run, over all sessions."""
        return self._earlier + time.monotonic() - self._began

    def _left(self) -> float | None:
        """Estimated seconds to the final table."""
        if self._search is None or self._outlook is None:
            return None
        return self._outlook.left(self._search.history, clock.now())

    def _announce(self) -> None:
        """For who asks for the status: how long it still takes, and when a worker counts as hung."""
        limits = [slot.limit for slot in self._look() if slot.limit is not None]
        left, limit = self._left(), max(limits, default=None)
        if self._run is not None and (left, limit) != (None, None):
            announce(self._run.spec.folder, left, limit)

    def _summary(self) -> str:
        """For a log: what there is after a batch."""
        assert self._search is not None
        done, left = self._search.history.arrived, self._left()
        text = (
            f"{done} evaluations in {duration_text(self._elapsed)}, {self._rate():.1f} per minute"
        )
        text += f", about {duration_text(left)} to the final table" if left is not None else ""
        best = self._best_text()
        return f"{text}; {best}" if best else text

    def _best_text(self) -> str:
        """The best candidate so far, with the interval that its own items give, beside the best known recipe."""
        assert self._search is not None
        history = self._search.history
        best = history.best
        if best is None:
            return ""
        at = (best.batch, best.candidate)
        if self._interval is not None and at not in self._intervals:
            assert self._run is not None
            interval, suite = self._interval(*at), self._run.suite
            ends = score_range(history, suite.objectives, best.batch)
            asked = history.evaluations(best.batch)[best.candidate].items
            whole = asked >= sum(map(len, suite.splits[Split.SEARCH].values()))
            text = searched_text(interval, ends, whole=whole, digits=2)
            self._intervals = {
                at: f"best so far #{best.candidate}: {text}{self._beside(best)} (search scores, the best of many: likely too good)"
            }
        return self._intervals[at]

    def _beside(self, best: Elite) -> str:
        """By how much the best leads the best known recipe."""
        assert self._search is not None
        history = self._search.history
        if len(history.batches) < 2:
            return ""
        known = history.ranked(1)[:1] if history.batches[1].phase == Phase.START else []
        if not known or not history.complete(2):
            return ""
        origin = history.candidates[known[0].candidate].origin
        if known[0].candidate == best.candidate:
            return f", the best known recipe ({origin})"
        lead = best.score.value - known[0].score.value
        return f", {lead:+.2f} on the best known recipe ({origin})"

    def _take(self) -> None:
        """The view anew, where it is shown."""
        if self._live is None or self._search is None or not self._search.history.batches:
            return
        history = self._search.history
        batch = history.batches[-1]
        name = nearest_budget(self._budget, self._spent)
        limit = self._budget[name] or 1
        generation = f"generation {batch.number}: {PHASES[batch.phase]}"
        self._view = View(
            bars=(
                (f"budget of {name}", int(min(self._spent[name], limit)), int(limit)),
                (generation, len(history.evaluations(batch.number)), len(batch.candidates)),
            ),
            rate=self._rate(),
            left=self._left(),
            best=self._best_text(),
            course=self._course.line(plain=self._console.options.ascii_only),
            taken=time.monotonic(),
        )

    def _block(self) -> Group:
        """The view as it is now. Called by the thread that draws."""
        view = self._view
        if view is None:
            return Group(Text(f"{self._text} ...", style="dim"))
        slots = self._look()
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            console=self._console,
        )
        for name, done, total in view.bars:
            progress.add_task(name, completed=done, total=total)
        busy = [slot for slot in slots if slot.state == "busy" and slot.total]
        if busy:
            done, total = sum(slot.done for slot in busy), sum(slot.total for slot in busy)
            progress.add_task("items of these evaluations", completed=done, total=total)
        times = f"{duration_text(self._elapsed)} elapsed"
        if view.left is not None:
            left = max(1.0, view.left - (time.monotonic() - view.taken))
            times += f", about {duration_text(left)} to the final table"
        lines = [f"{times}; {view.rate:.1f} evaluations per minute"]
        lines += [f"workers: {workers_text(slots)}"] if slots else []
        texts: list[Any] = [Text(line, style="dim") for line in lines]
        if view.best:
            texts.append(Text(view.best, style="bold"))
        if view.course:
            texts.append(Text(f"best score so far {view.course}"))
        return Group(progress, *texts)


def workers_text(slots: Sequence[Slot]) -> str:
    """``2 busy, 1 starting``."""
    counts = Counter(slot.state for slot in slots)
    return ", ".join(
        f"{counts[state]} {state}" for state in ("busy", "idle", "starting") if counts[state]
    )


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
    with items_bar(what) as heard:
        done = 0

        def advance(name: str, total: int) -> None:
            nonlocal done
            done += 1
            heard(done, total)

        yield advance


@contextmanager
def items_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how much is done, of how much, from the first time on; silent where there is no terminal.

    What is told may begin anew: the bar follows.
    """
    progress = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console(err=True), transient=True,
        disable=not console(err=True).is_terminal,
    )  # fmt: skip
    task = progress.add_task(what, total=None)

    def heard(done: int, total: int) -> None:
        progress.start()  # not before: a download has bars of its own
        progress.update(task, total=total, completed=done)

    try:
        yield heard
    finally:
        progress.stop()
