"""The loop: propose, journal, hand out, observe. Start is resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.errors import CandidateFailed, InputError, RunError
from evomerge.evolution import SPLIT, Search
from evomerge.fitness.intervals import Interval
from evomerge.fitness.suite import Items, Results
from evomerge.history import Batch, Evaluation
from evomerge.journal import Journal
from evomerge.pool import Pool, WorkerSpec
from evomerge.pool.serial import SerialPool
from evomerge.recipe import Recipe
from evomerge.run.events import (
    FORMAT,
    JOURNAL,
    batch_event,
    batch_from,
    evaluation_event,
    evaluation_from,
    items_digest,
    seconds_worked,
    stamped,
    versions,
    with_provenance,
)
from evomerge.run.finish import final_table, score_interval, table_markdown
from evomerge.run.preflight import Job, prepare
from evomerge.run.spec import load_run

BEST, REPORT = "best.yaml", "report.md"
_log = logging.getLogger("evomerge.run")

MakePool = Callable[[WorkerSpec], Pool]
IntervalOf = Callable[[int, int], Interval]


class Listener:
    """What a display may want to know. Every method does nothing here."""

    def say(self, text: str) -> None:
        """A stage of the preparation began."""

    def started(self, job: Job, search: Search, resumed: bool, interval: IntervalOf) -> None:
        """The journal is folded; work begins. ``interval``: (batch, candidate) -> of its score."""

    def opened(self, batch: Batch) -> None:
        """A batch was handed out."""

    def observed(self, evaluation: Evaluation, completed: bool) -> None:
        """An evaluation arrived; ``completed``: it was the last of its batch."""

    def waiting(self) -> None:
        """About a second passed without news."""


@dataclass(frozen=True)
class Result:
    """What a finished search leaves: the winner, and every model of the table on the report split.

    ``winner`` is None if every candidate of the shortlist failed.
    """

    folder: Path
    winner: Recipe | None
    table: Mapping[str, Any]


def search(
    run_dir: str | Path,
    pool: MakePool = SerialPool,
    *,
    listener: Listener | None = None,
    device: str | None = None,
) -> Result:
    """Run the search in ``run_dir``, from its start or from where its journal ends.

    Args:
        run_dir: a folder with a ``run.yaml``, or that file.
        pool: makes the pool that works; the result does not depend on it.
        listener: is told of progress.
        device: of the workers; default CUDA if there is any, else CPU.

    Returns:
        The winner, and the table on the report split.

    Raises:
        InputError: run.yaml, a model, a task or the journal is wrong; nothing was written.
        RunError: the search stopped and can be resumed.
    """
    listener = listener or Listener()
    job = prepare(load_run(run_dir), say=listener.say)
    folder = job.spec.folder
    with Journal.open(folder / JOURNAL) as journal:
        loop = _Loop(job, journal, listener)
        try:
            if not loop.search.done:
                with pool(job.worker(device)) as workers:
                    loop.work(workers)
        except InputError:
            # a search that never got going leaves nothing to disagree with
            if not loop.any_outcome:
                journal.path.unlink()
            raise
        return loop.finish()


class _Loop:
    """One process's work on a run: the folded search, and what the fold does not hold."""

    def __init__(self, job: Job, journal: Journal, listener: Listener) -> None:
        self.job, self.journal, self.listener = job, journal, listener
        self.search = job.search()
        self._items: dict[int, Items] = {}  # batch -> items
        self._results: dict[tuple[int, int], Results] = {}  # (batch, candidate) -> responses
        self._known: dict[str, tuple[int, int]] = {}  # job key -> where its outcome is
        self._waiting: dict[str, list[tuple[int, int]]] = {}  # job key -> who waits for it
        resumed = bool(journal.events)
        if resumed:
            check_same(journal.events[0], job, journal.path)
            for event in journal.events[1:]:
                self._fold(event)
        else:
            journal.append(run_event(job))
        self._spent = seconds_worked(journal.events)
        self._started = time.monotonic()
        if not self.search.done:
            journal.append(stamped("session"))
        listener.started(job, self.search, resumed, self.interval)

    def _fold(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "batch":
            self._open(batch_from(event, self.job.template))
        elif event["event"] == "evaluation":
            self._observe(event)
        elif event["event"] == "closed":
            self.search.close(event["reason"])

    def _open(self, batch: Batch) -> None:
        self.search.open(batch)
        self._items[batch.number] = self._items_of(batch)

    def _items_of(self, batch: Batch) -> Items:
        """The items of a batch: whole splits, or this generation's sample of the search split."""
        if batch.phase == "search":
            return self.job.suite.sample(self.job.spec.seed, batch.number)
        return self.job.suite.splits[SPLIT[batch.phase]]

    def _observe(self, event: Mapping[str, Any]) -> bool:
        at = (event["batch"], event["candidate"])
        if event.get("same_as"):
            self._results[at] = self._results.get(tuple(event["same_as"]), {})
        elif event["results"] is not None:
            self._results[at] = event["results"]
        self._known.setdefault(self._key(*at), at)
        return self.search.observe(evaluation_from(event))

    def _key(self, batch: int, candidate: int) -> str:
        """Names the work: equal recipes on equal items are one job."""
        recipe = self.search.candidates[candidate].recipe
        return f"{recipe.digest[:16]}-{items_digest(self._items[batch])}"

    @property
    def any_outcome(self) -> bool:
        """True once an evaluation is in the journal."""
        return bool(self._known)

    # -- working --------------------------------------------------------------------------------

    def work(self, pool: Pool) -> None:
        """Until the search is done: hand out what may be asked, take in what comes."""
        for batch in self.search.batches:
            self._hand_out(batch, pool)
        while not self.search.done:
            self._propose(pool)
            answer = pool.next(timeout=1.0)
            if answer is not None:
                self._record(*answer)
            elif not pool.pending:
                raise RunError(
                    "nothing is under way and nothing can be asked; this is a bug in evomerge"
                )
            else:
                self.listener.waiting()

    def _propose(self, pool: Pool) -> None:
        hours = self.job.spec.hours
        if hours is not None and not self.search.closed and self._elapsed() > hours * 3600:
            self.journal.append(stamped("closed", reason="hours"))
            self.search.close("hours")
        while (batch := self.search.propose()) is not None:
            if batch.phase in ("start", "search"):
                items = self._items_of(batch)
                batch = Batch(batch.number, batch.phase, batch.candidates, self._references(items))
            self.journal.append(batch_event(batch, self._items_of(batch)))
            self._open(batch)
            self._hand_out(batch, pool)
            self.listener.opened(batch)

    def _elapsed(self) -> float:
        """Seconds spent on this run, over all sessions."""
        return self._spent + time.monotonic() - self._started

    def _references(self, items: Items) -> dict[str, dict[str, float]]:
        """Base and parents on ``items``, from their responses to the whole search split."""
        try:
            return {
                candidate.origin: self.job.suite.values(self._results[0, candidate.id], items)
                for candidate in self.search.batches[0].candidates
            }
        except CandidateFailed as failure:
            raise RunError(
                f"base or a parent has no finite score on a generation's sample: {failure}. Start anew "
                "with more items per candidate (items.candidate in the fitness file)"
            ) from None

    def _hand_out(self, batch: Batch, pool: Pool) -> None:
        for candidate in self.search.awaited(batch.number):
            key = self._key(batch.number, candidate.id)
            if key in self._known:
                self._copy(batch.number, candidate.id, self._known[key])
            elif key in self._waiting:
                self._waiting[key].append((batch.number, candidate.id))
            else:
                self._waiting[key] = [(batch.number, candidate.id)]
                pool.submit(
                    {
                        "key": key,
                        "recipe": candidate.recipe.portable().plain,
                        "items": self._items[batch.number],
                        "probe": self.job.suite.splits["probe"],
                    }
                )

    def _copy(self, batch: int, candidate: int, source: tuple[int, int]) -> None:
        """Record an outcome that an equal recipe already has on equal items."""
        known = self.search.evaluations(source[0])[source[1]]
        evaluation = Evaluation(batch, candidate, known.values, known.error)
        self._take(evaluation_event(evaluation, results=None, seconds={}, same_as=source))

    def _record(self, job: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        first, *others = self._waiting.pop(job["key"])
        values, error = None, outcome["error"]
        if error is None:
            try:
                values = self.job.suite.values(outcome["results"])
            except CandidateFailed as failure:  # finite answers, but a metric of them is not
                error = str(failure)
        if error is not None and self.search.batches[first[0]].phase == "references":
            raise RunError(
                f"{self.search.candidates[first[1]].origin} itself could not be scored: {error}. Every "
                "score is relative to base and parents. Mend the cause, then resume"
            )
        evaluation = Evaluation(*first, values, error)
        self._take(
            evaluation_event(
                evaluation,
                results=outcome["results"],
                probe=outcome["probe"],
                seconds=outcome["seconds"],
            )
        )
        for batch, candidate in others:
            self._copy(batch, candidate, first)

    def _take(self, event: dict[str, Any]) -> None:
        """Journal an evaluation, then fold it."""
        self.journal.append(event)
        completed = self._observe(event)
        self.listener.observed(evaluation_from(event), completed)

    def interval(self, batch: int, candidate: int) -> Interval:
        """The score of a candidate of a search batch, with the interval that its items allow."""
        references = {c.origin: self._results[0, c.id] for c in self.search.batches[0].candidates}
        return score_interval(
            self.job.suite,
            self._results[batch, candidate],
            references,
            self.search.gains,
            self.job.spec.seed,
        )

    # -- finishing ------------------------------------------------------------------------------

    def finish(self) -> Result:
        """Write the winner's recipe and the table beside the journal, once."""
        search, folder = self.search, self.job.spec.folder
        report = search.batches[-1]
        results = {
            candidate: self._results[report.number, candidate] if evaluation.values else None
            for candidate, evaluation in search.evaluations(report.number).items()
        }
        ended = next((event for event in self.journal.events if event["event"] == "end"), None)
        if ended is None:
            table = final_table(search, self.job.suite, results, self.job.spec.seed)
            ended = stamped("end", winner=search.winner, table=table)
            self.journal.append(ended)
        winner = None
        if search.winner is not None:
            winner = with_provenance(search, search.winner, self.journal.events[0], ended["table"])
        try:
            config.write_text(folder / REPORT, table_markdown(ended["table"]))
            if winner is not None:
                config.write_text(folder / BEST, winner.to_yaml())
        except OSError as error:
            raise RunError(
                f"{folder}: the results cannot be written: {error.strerror}. The journal is complete: "
                "make room and resume the run, or use `evomerge export`"
            ) from None
        return Result(folder, winner, ended["table"])


def run_event(job: Job) -> dict[str, Any]:
    """The journal's first line: what this run is."""
    spec = job.spec
    return stamped(
        "run",
        format=FORMAT,
        digest=spec.digest,
        content=spec.content,
        evaluations=spec.evaluations,
        population=job.optimizer().population,
        template=job.template.plain,
        models={n: {"ref": m.name, "sha256": m.fingerprint} for n, m in job.models.items()},
        dims=[dim.name for dim in job.space.dims],
        objectives=[objective.plain for objective in job.suite.objectives],
        combine=job.suite.spec.combination,
        splits={"digest": job.splits_digest, "items": job.suite.splits},
        scorers={name: scorer.fingerprint for name, scorer in job.suite.scorers.items()},
        versions=versions(),
    )


def check_same(event: Mapping[str, Any], job: Job, path: Path) -> None:
    """Refuse to continue a journal with another job than it was started with."""
    if event.get("event") != "run" or event.get("format") != FORMAT:
        raise InputError(
            f"{path}:1: not the journal of a run in format {FORMAT} (found {event.get('event')!r}, format "
            f"{event.get('format')!r}); use the evomerge version that wrote it, or another folder"
        )
    advice = (
        f"Restore it, or start a new search in another folder (the journal of this one is {path})"
    )
    if event["digest"] != job.spec.digest:
        changed = _difference(event["content"], job.spec.content)
        raise InputError(
            f"{job.spec.folder}: run.yaml (or a file it names) is not what this search was started with: "
            f"{changed}. {advice}"
        )
    for name, model in job.models.items():
        if event["models"][name]["sha256"] != model.fingerprint:
            raise InputError(
                f"{name} ({model.name}): its weights changed since the search was started. {advice}"
            )
    for name, scorer in job.suite.scorers.items():
        if event["scorers"][name] != scorer.fingerprint:
            raise InputError(
                f"{name}: its data, task file or code changed since the search was started. {advice}"
            )
    now = versions()
    moved = [
        f"{n} {old} -> {now.get(n)}" for n, old in event["versions"].items() if now.get(n) != old
    ]
    if moved:
        _log.warning(
            "other library versions than at the start (%s): later candidates may differ in the last digits",
            ", ".join(moved),
        )
    if event["splits"]["digest"] != job.splits_digest:
        raise InputError(
            f"the items of the evaluation tasks changed since the search was started. {advice}"
        )


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first key at which two nested mappings differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old!r} and is {new!r}"
