"""The loop: propose, journal, hand out, observe. Start is resume."""

from __future__ import annotations

import base64
import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evomerge.blas import one_thread
from evomerge.errors import CandidateFailed, InputError, RunError
from evomerge.evolution.core import Search
from evomerge.evolution.history import OUT_OF_HOURS, Batch, Evaluation
from evomerge.judging.final import IntervalOf
from evomerge.judging.table import Table
from evomerge.pool import Pool, Slot, WorkerSpec
from evomerge.pool.serial import SerialPool
from evomerge.record import clock
from evomerge.record.answers import At, join
from evomerge.record.events import (
    JOURNAL,
    RESPONSES,
    BatchLine,
    ClosedLine,
    DecisionLine,
    EvaluationLine,
    ExtendedLine,
    Line,
    RoundLine,
    SessionLine,
    SettledLine,
    Survey,
    fold,
    read_lines,
    reading,
    unswept,
)
from evomerge.record.holder import holding
from evomerge.record.index import Index
from evomerge.record.journal import Journal
from evomerge.record.record import Record
from evomerge.record.responses import Store
from evomerge.record.vectors import Vectors
from evomerge.run import extending
from evomerge.run.calibrating import collect
from evomerge.run.ending import end
from evomerge.run.ground import Ground
from evomerge.run.identity import check_same, head_of
from evomerge.run.preflight import Run, prepare
from evomerge.run.scoring import Scoring
from evomerge.run.spec import load_run
from evomerge.space.parts.rows import WIDER
from evomerge.suite.scorer import Items, Results
from evomerge.worker import Job, Outcome

MakePool = Callable[[WorkerSpec], Pool]
Look = Callable[[], Sequence[Slot]]


class Listener:
    """What a display may want to know. Every method does nothing here."""

    def say(self, text: str) -> None:
        """A stage of the preparation began."""

    def downloading(self, text: str) -> None:
        """A line on what is downloaded; until the next ``say`` the hub's library shows how far it is."""

    def started(
        self, run: Run, search: Search, resumed: bool, interval: IntervalOf, seconds: float
    ) -> None:
        """The journal is folded; work begins.

        Args:
            run, search: what is worked on.
            resumed: it had been begun.
            interval: (batch, candidate) -> of its search score.
            seconds: that earlier sessions worked.
        """

    def noted(self, text: str) -> None:
        """Something that a person should know was found."""

    def working(self, slots: int, look: Look) -> None:
        """There are workers, for so many jobs at a time; ``look`` says what each of them does, to any thread."""

    def opened(self, batch: Batch) -> None:
        """A batch was handed out."""

    def decided(self, text: str) -> None:
        """The optimizer decided something."""

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        """An evaluation arrived, and is in the journal; ``completed``: it was the last of its batch."""

    def closed(self, reason: str) -> None:
        """The search phase was ended early."""

    def waiting(self) -> None:
        """About a second passed without news."""

    def ended(self, table: Table) -> None:
        """The final table was made."""


class Listeners(Listener):
    """Several, told one after the other."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def say(self, text: str) -> None:
        for each in self._listeners:
            each.say(text)

    def downloading(self, text: str) -> None:
        for each in self._listeners:
            each.downloading(text)

    def started(
        self, run: Run, search: Search, resumed: bool, interval: IntervalOf, seconds: float
    ) -> None:
        for each in self._listeners:
            each.started(run, search, resumed, interval, seconds)

    def noted(self, text: str) -> None:
        for each in self._listeners:
            each.noted(text)

    def working(self, slots: int, look: Look) -> None:
        for each in self._listeners:
            each.working(slots, look)

    def opened(self, batch: Batch) -> None:
        for each in self._listeners:
            each.opened(batch)

    def decided(self, text: str) -> None:
        for each in self._listeners:
            each.decided(text)

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        for each in self._listeners:
            each.observed(line, completed)

    def closed(self, reason: str) -> None:
        for each in self._listeners:
            each.closed(reason)

    def waiting(self) -> None:
        for each in self._listeners:
            each.waiting()

    def ended(self, table: Table) -> None:
        for each in self._listeners:
            each.ended(table)


def search(
    run_dir: str | Path,
    pool: MakePool = SerialPool,
    *,
    listener: Listener | None = None,
    device: str | None = None,
    gpus: int = 1,
    extension: Mapping[str, str] | None = None,
) -> Path:
    """Run the search in ``run_dir``, from its start or from where its journal ends.

    Args:
        run_dir: a folder with a ``run.yaml``, or that file.
        pool: makes the pool that works; the result does not depend on it.
        listener: is told of progress.
        device: of the workers; default CUDA if there is any, else CPU.
        gpus: that a worker spreads a model over.
        extension: more budget for a run that was begun: name -> ``+N``, or ``N`` for a new total.

    Returns:
        The run's folder; its journal holds all that was found.

    Raises:
        InputError: run.yaml, a model, a task or the journal is wrong; nothing was written.
        RunError: the search stopped and can be resumed.
    """
    listener = listener or Listener()
    extending.check(extension or {})
    run = prepare(
        load_run(run_dir),
        say=listener.say,
        downloading=listener.downloading,
        device=device,
        gpus=gpus,
    )
    folder = run.spec.folder
    path = folder / JOURNAL
    writable = bool(extension) or not _is_kept(path)
    with Journal.open(path, writable=writable) as journal, holding(folder):
        survey = Survey.of(read_lines(journal.path))
        resumed = survey.head is not None
        ground = Ground(run)
        head = survey.head or head_of(run)
        if resumed:
            check_same(head, run, journal.path)
        elif extension:
            raise InputError(
                f"{journal.path}: nothing was searched here yet: say in run.yaml what the budget is"
            )
        with Store.open(
            folder / RESPONSES, head.inventory, survey.blocks, writable=writable
        ) as store:
            if not resumed:
                journal.append(head.plain)
            footing = ground.footing(head)
            loop = _Loop(
                run, journal, survey, store, listener, extension=extension or {}, ground=ground
            )
            listener.started(run, loop.search, resumed, loop.scoring.interval, survey.seconds)
            try:
                with _settled_memory():
                    loop.run_on(pool, run.worker(device, gpus, footing), device)
            except InputError:
                # a search that never got going leaves nothing to disagree with
                if not loop.history.arrived:
                    journal.path.unlink(missing_ok=True)
                    store.path.unlink(missing_ok=True)
                raise
    return folder


def _is_kept(path: Path) -> bool:
    """Whether the journal at ``path`` is of a search that is done, and lies where nothing can be written."""
    if not path.is_file() or os.access(path, os.W_OK):
        return False
    history = Record(path.parent).history
    return history.done and history.tabled


@contextmanager
def _settled_memory() -> Iterator[None]:
    """What lives by now is not looked through for garbage again and again, which takes longer than all else."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Loop:
    """One process's work on a run.

    What happens is folded into the history and into the scoring, in one order, live as from the journal:
    a batch first into the history; answers first into the scoring, which works out their values.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal,
        survey: Survey,
        store: Store,
        listener: Listener,
        extension: Mapping[str, str],
        ground: Ground,
    ) -> None:
        self.run, self.journal, self.store, self.listener = run, journal, store, listener
        self.ground = ground
        self.vectors = Vectors(run.spec.folder)
        self._index = Index(journal.path)
        self.search = run.search(
            lead=lambda at: self.scoring.lead(at),
            margin=lambda at: self.scoring.margin(at),
            credit=lambda at: self.scoring.credit(at),
            row_slopes=lambda sha256: self.vectors.slopes(sha256),
        )
        self.history = self.search.history
        self.scoring = Scoring(run, self.search, store)
        # Model (``Scoring.key``) -> evaluations that await its answers, the one that is being asked first.
        # Candidates may merge to one model; it is asked once at a time, so that each asks only the rest.
        self._waiting: dict[str, list[At]] = {}
        self._decided = Counter(survey.decisions)  # on the disk
        self._heard = 0  # of the decisions that the search has told
        with unswept(), one_thread():
            for number, line in enumerate(read_lines(journal.path), start=1):
                self._fold(line, number)
        self._spent = survey.seconds
        self._started = time.monotonic()
        self._ended = survey.end
        limits = extending.extended(self.limits, extension)
        if limits and (why := self.search.refusal(limits) or self._too_late(limits)):
            raise InputError(f"{run.spec.folder}: nothing would come of this budget: {why}")
        if limits or not self.history.done:
            self._write(SessionLine(time=clock.now()))
        if limits:
            self._write(ExtendedLine(time=clock.now(), budget=dict(limits)))
            self.history.extend(limits)

    def _too_late(self, limits: extending.Limits) -> str:
        """Why nothing could be asked within so many hours; empty if something can."""
        hours = limits["hours"]
        if hours is None or self._spent < hours * 3600:
            return ""
        return f"{self._spent / 3600:.3g} of its {hours:g} hours are over. Allow more of them, too: --hours +N"

    @property
    def limits(self) -> extending.Limits:
        """The budgets as they are now."""
        return {**self.run.spec.budget, **self.history.limits}

    def _fold(self, line: Line, number: int) -> None:
        with reading(self.journal.path, number):
            if isinstance(line, BatchLine):
                batch = line.batch_on(self.run.template, self.journal.path, number)
                if not batch.number:  # what makes no sense is told before anything is asked
                    _ = [candidate.recipe for candidate in batch.candidates]
                self._open(batch)
                return
            if isinstance(line, EvaluationLine):
                at = line.batch, line.candidate
                self.history.check_awaited(*at)
                self.scoring.add(at, line.block_at(number))
                if line.error:
                    self.scoring.fail(at, line.error)
            fold(self.history, line, self.run.template, self.journal.path, number)

    def _open(self, batch: Batch) -> Items:
        """Fold a batch; its items."""
        self.history.open(batch)
        return self.scoring.open(batch)

    def _write(self, line: Line) -> None:
        self.journal.append(line.plain)
        self._index.keep(self.journal.count)

    # -- working --------------------------------------------------------------------------------

    def run_on(self, pool: MakePool, worker: WorkerSpec, device: str | None) -> None:
        """Until the table of the last report is made."""
        run = self.run
        while True:
            if not self.history.done:
                if run.texts is not None:
                    say = self.listener.say
                    collect(run.spec, run.space, run.models, run.texts, device=device, say=say)
                with pool(worker) as workers:
                    self.work(workers)
            self.end()
            self._index.keep(self.journal.count, last=True)
            # the budget may have been extended before the report was complete
            if self.history.done:
                return

    def work(self, pool: Pool) -> None:
        """Until the search is done: hand out what may be asked, take in what comes."""
        for batch in self.history.batches:
            self._hand_out(batch, pool)
        self.listener.working(pool.slots, pool.look)
        while not self.history.done:
            self._propose(pool)
            if self.history.done:  # a report of models that had answered it all
                return
            answer = pool.next(timeout=1.0)
            if answer is not None:
                job, outcome = answer
                self._record(job["key"], Outcome.from_plain(outcome), pool)
            elif not pool.pending:
                raise RunError(
                    "nothing is under way and nothing can be asked; this is a bug in evomerge"
                )
            else:
                self.journal.check_there()
                self.listener.waiting()

    @one_thread()
    def _propose(self, pool: Pool) -> None:
        """Open every batch that may be opened now; first judge the round that is complete."""
        hours = self.limits["hours"]
        history = self.history
        searching = not history.batches or history.batches[-1].phase.searched
        if (
            hours is not None
            and searching
            and not history.closed
            and self._elapsed() > hours * 3600
        ):
            self._close(OUT_OF_HOURS)
        while True:
            if history.unsettled:
                settled = self.scoring.settle()
                self._write(SettledLine.of(settled))
                history.settle(settled)
                for name, why in settled.unable.items():
                    self.listener.noted(f"{name} cannot rank these models: {why}")
            if (newest := history.unjudged) is not None:
                verdict = self.scoring.judge(newest)
                self._write(RoundLine.of(verdict))
                history.judge(verdict)
            if reason := self.search.stalled():
                self._close(reason)
            batch = self.search.propose()
            self._tell_decisions()
            if batch is None:
                return
            self.ground.check()
            batch = self.vectors.kept(batch)
            self._write(BatchLine.of(batch, self._open(batch)))
            self.listener.opened(batch)
            self._hand_out(batch, pool)

    def _close(self, reason: str) -> None:
        """End the search phase."""
        self._write(ClosedLine(time=clock.now(), reason=reason))
        self.history.close(reason)
        self.listener.closed(reason)

    @one_thread()
    def end(self) -> None:
        """Make the table of the newest report, unless there is one."""
        ended = self._ended if self.history.tabled else None
        self._ended = end(self.run, self.search, self.scoring, self.journal, ended)
        if ended is None:
            self.listener.ended(self._ended.final)

    def _tell_decisions(self) -> None:
        """Write down what the optimizer decided since."""
        said = self.search.decisions
        if len(said) == self._heard:
            return
        self._heard = len(said)
        for text, count in (Counter(said) - self._decided).items():
            for _ in range(count):
                batch = len(self.history.batches)
                self._write(DecisionLine(time=clock.now(), batch=batch, text=text))
                self.listener.decided(text)
                self._decided[text] += 1

    def _elapsed(self) -> float:
        """Seconds spent on this run, over all sessions."""
        return self._spent + time.monotonic() - self._started

    @one_thread()
    def _hand_out(self, batch: Batch, pool: Pool) -> None:
        """Ask the batch's candidates; of equal models one evaluation at a time, in order."""
        for candidate in self.history.awaited(batch.number):
            at = batch.number, candidate.id
            queue = self._waiting.setdefault(self.scoring.key(at), [])
            queue.append(at)
            if queue == [at]:
                self._ask(self.scoring.key(at), pool)

    def _ask(self, key: str, pool: Pool) -> None:
        """Ask the first evaluation that awaits a model what the model was not asked before."""
        queue = self._waiting[key]
        while queue:
            at, scoring = queue[0], self.scoring
            items, probe, error = scoring.missing(at), scoring.probe(at), scoring.error(at)
            slope = scoring.slope(at)
            if (items or slope) and error is None:
                recipe = self.history.candidates[at[1]].recipe
                # base and parents, batch 0, set the limits themselves
                limits = scoring.limits if probe and at[0] else None
                rows, by_rows = recipe.body.rows, scoring.by_rows(at)
                slopes = self.run.suite.spec.slopes
                if by_rows:
                    slopes = replace(slopes, tau=WIDER * slopes.tau)
                job = Job(
                    key,
                    recipe.portable().plain,
                    items,
                    probe,
                    limits,
                    scoring.dtype(at),
                    slope=slope,
                    answers=scoring.shown(slope),
                    teachers=scoring.teachers(slope),
                    rows=base64.b64encode(rows.read()).decode("ascii") if rows else "",
                    by_rows=by_rows,
                    **asdict(slopes),
                )
                pool.submit(job.plain)
                return
            queue.pop(0)
            self._conclude(at, error)
        del self._waiting[key]

    @one_thread()
    def _record(self, key: str, outcome: Outcome, pool: Pool) -> None:
        at = self._waiting[key].pop(0)
        results = join([part for part in (outcome.probe, outcome.results) if part])
        self._conclude(at, outcome.error, results, outcome.seconds, outcome.slope)
        self._ask(key, pool)

    def _conclude(
        self,
        at: At,
        error: str | None,
        results: Results | None = None,
        seconds: Mapping[str, float] | None = None,
        slope: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the new ``results`` of an evaluation, work out its values, journal and fold it."""
        scoring, reused = self.scoring, self.scoring.reused(at)  # before its own answers count, too
        block = self.store.append(results) if results else None
        scoring.add(at, block)
        values = errors = slopes = vectors = None
        if error is None:
            try:
                values, errors = scoring.values(at)
                if slope and scoring.by_rows(at):
                    vectors = self.vectors.keep_slopes(scoring.row_slopes(at, slope))
                elif slope:
                    slopes = scoring.slopes(at, slope)
            except CandidateFailed as failure:  # finite answers, but a metric or a slope is not
                values = errors = None
                error = str(failure)
        if error is not None:
            if any(at[1] == reference.id for reference in self.history.batches[0].candidates):
                raise RunError(
                    f"{self.history.candidates[at[1]].origin} itself could not be scored: {error}. Every "
                    "score is relative to base and parents. Mend the cause, then resume"
                )
            scoring.fail(at, error)
        counts = [(len(r["items"]), r["tokens"]) for r in (results or {}).values()]
        items, tokens = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        items += self.run.slope_cost * sum(each["items"] for each in (slope or {}).values())
        evaluation = Evaluation(
            *at, values, error, errors, items=items, tokens=tokens, slopes=slopes, vectors=vectors
        )
        line = EvaluationLine.of(evaluation, block=block, reused=reused, seconds=seconds or {})
        self._write(line)
        self.listener.observed(line, self.history.observe(evaluation))
