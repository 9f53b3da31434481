"""The journal's events as types: how batches, evaluations and the run itself are written and read.

========== ==================================================================================
event      holds
========== ==================================================================================
run        ``Head``, the job: its digest and content, parents by hash, splits, objectives, versions
session    a process began to work on the run
batch      ``BatchLine``: candidates (id, origin, genome, body) and how many items they are scored on;
           written before the first of them is handed out
evaluation ``EvaluationLine``: objective values of one candidate with standard errors, or why it
           failed; where its responses lie, and which earlier ones (batch, candidate) were used again;
           the sha256 of its slope by row weights, in ``vectors``
decision   ``DecisionLine``: what the optimizer decided, and why, in words
settled    ``SettledLine``: the yardsticks, and which objectives cannot rank these models; follows the
           evaluations of base and parents
closed     ``ClosedLine``: the search phase was ended early, out of hours or since nothing got better
extended   ``ExtendedLine``: the budget is another from here on; the search goes on, also after its end
round      ``RoundLine``, a round of the shortlist: who was beaten, by whom, with what evidence; whose
           scores are invalid and why; why there was no race; who is on the front; how likely floors hold
end        ``EndLine``: the table on the report split, and which looks at it came before
========== ==================================================================================

Each is a type, and a line of a journal is valid if its type can be made from it.
"""

from __future__ import annotations

import gc
import importlib.metadata
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from evomerge import seeds
from evomerge.errors import InputError, RunError
from evomerge.evolution.candidate import Candidate
from evomerge.evolution.history import (
    Batch,
    Dropped,
    Evaluation,
    History,
    Member,
    Phase,
    Settled,
    Verdict,
)
from evomerge.judging.table import Table
from evomerge.recipe import Recipe
from evomerge.record import clock, journal
from evomerge.record.responses import Block
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Items
from evomerge.visible import cut

BUDGETS = ("evaluations", "items", "tokens", "hours")
MOST = 10**12  # items, tokens or bytes
MOST_SECONDS = 10**10  # of work: some 300 years
JOURNAL, RESPONSES = "journal.jsonl", "responses.bin"
_LIBRARIES = ("evomerge", "torch", "transformers", "lm_eval", "cma", "optuna", "scipy", "ray")


class Line(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event"
):
    """An event; ``time`` in seconds since the epoch enters displays and the hours budget, no decision."""

    time: float

    @property
    def plain(self) -> dict[str, Any]:
        """For the journal."""
        found: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return found


V = TypeVar("V")


@dataclass(frozen=True)
class Parent:
    """A model as it was at the start.

    Attributes:
        ref: what it was called.
        sha256: of its weights.
        files: sha256 of all that a score depends on: weights, config, tokenizer, template, adapter.
        pinned: of a model of the hub, its id at the commit that it meant then; else empty.
    """

    ref: str
    sha256: str
    files: dict[str, str]
    pinned: str = ""


@dataclass(frozen=True)
class ScorerLine:
    """A scorer as it was at the start.

    Attributes:
        sha256: its fingerprint.
        files: sha256 of its files of data and code.
        commits: data set of the hub -> commit that it was taken at.
    """

    sha256: str
    files: dict[str, str]
    commits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Splits:
    """Split -> scorer -> items, and the digest of that."""

    digest: str
    items: dict[str, dict[str, list[str]]]


class Head(Line, frozen=True, kw_only=True, tag="run"):
    """What a run is; another run cannot go on with its journal.

    Attributes:
        format: of the journal.
        digest: of ``content``: everything in run.yaml and the files it names.
        budget: evaluations, items, tokens and hours; None is no limit.
        scoring: dtype that candidates are scored in.
        population: of the optimizer.
        template: a recipe without its body.
        models: by name.
        dims: names of the genes.
        objectives: what is wanted.
        combine: how they combine.
        splits: the items.
        scorers: by name.
        versions: of libraries.
        given: merges that are scored first, as they were at the start: other run or recipe file -> label -> body.
    """

    format: int
    digest: str
    content: dict[str, Any]
    budget: dict[str, int | float | None]
    scoring: str
    population: int
    template: dict[str, Any]
    models: dict[str, Parent]
    dims: list[str]
    objectives: tuple[Objective, ...]
    combine: str
    splits: Splits
    scorers: dict[str, ScorerLine]
    versions: dict[str, str]
    given: dict[str, dict[str, dict[str, Any]]]

    def __post_init__(self) -> None:
        if not isinstance(self.content.get("fitness"), dict):
            raise ValueError("its content has no fitness")
        if not any(objective.weight for objective in self.objectives):
            raise ValueError("no objective has a weight")
        names = {objective.name for objective in self.objectives}
        for objective in self.objectives:
            if unknown := sorted({*objective.of} - names):
                raise ValueError(
                    f"{objective.name!r:.60} is made of {unknown[0]!r:.60}, which is none"
                )

    @property
    def inventory(self) -> dict[str, list[str]]:
        """Scorer -> every item of the run, split by split."""
        found: dict[str, list[str]] = {}
        for items in self.splits.items.values():
            for scorer, ids in items.items():
                found.setdefault(scorer, []).extend(ids)
        return found


class SessionLine(Line, frozen=True, kw_only=True, tag="session"):
    """A process began to work on the run."""


@dataclass(frozen=True)
class CandidateLine:
    """A candidate: its recipe is the run's template with this body."""

    id: int
    origin: str
    genome: tuple[float, ...] | None
    body: dict[str, Any]
    slope: bool


@dataclass(frozen=True)
class AskedLine:
    """The items of a batch: their digest, and how many per scorer."""

    digest: str
    counts: dict[str, int]


class BatchLine(Line, frozen=True, kw_only=True, tag="batch"):
    """A batch was opened."""

    batch: int
    phase: Phase
    items: AskedLine
    progress: float
    seen: int
    candidates: tuple[CandidateLine, ...]
    fresh: bool

    @classmethod
    def of(cls, batch: Batch, items: Items) -> BatchLine:
        counts = {name: len(ids) for name, ids in items.items()}
        return cls(
            time=clock.now(),
            batch=batch.number,
            phase=batch.phase,
            items=AskedLine(items_digest(items), counts),
            progress=batch.progress,
            seen=batch.seen,
            fresh=batch.fresh,
            candidates=tuple(
                CandidateLine(
                    c.id, c.origin, c.genome, c.recipe.body.plain(tuple(c.recipe.models)), c.slope
                )
                for c in batch.candidates
            ),
        )

    def batch_on(self, template: Recipe, path: Path, number: int) -> Batch:
        """The batch; candidates are rebuilt on the run's ``template``.

        A body is read when its recipe is asked for; one that makes no sense is told with its place, line
        ``number`` of the journal at ``path``.
        """

        def make(body: Mapping[str, Any]) -> Recipe:
            with reading(path, number):
                return template.with_body(body)

        candidates = tuple(
            Candidate.written(
                c.id, c.origin, c.body, template, make, genome=c.genome, slope=c.slope
            )
            for c in self.candidates
        )
        return Batch(self.batch, self.phase, candidates, self.progress, self.seen, self.fresh)


class EvaluationLine(Line, frozen=True, kw_only=True, tag="evaluation"):
    """An evaluation arrived."""

    batch: int
    candidate: int
    values: dict[str, float] | None
    error: str | None
    errors: dict[str, float | None] | None
    items: int
    tokens: int
    block: tuple[int, int, int] | None
    reused: tuple[tuple[int, int], ...]
    seconds: dict[str, float]
    slopes: dict[str, tuple[float, ...]] | None
    vectors: str | None

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        *,
        block: Block | None,
        reused: Sequence[tuple[int, int]] = (),
        seconds: Mapping[str, float],
    ) -> EvaluationLine:
        return cls(
            time=clock.now(),
            batch=evaluation.batch,
            candidate=evaluation.candidate,
            values=_plain(evaluation.values),
            error=evaluation.error,
            errors=_plain(evaluation.errors),
            items=evaluation.items,
            tokens=evaluation.tokens,
            slopes=_plain(evaluation.slopes),
            vectors=evaluation.vectors,
            block=block.plain if block else None,
            reused=tuple(reused),
            seconds=dict(seconds),
        )

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(
            self.batch,
            self.candidate,
            self.values,
            self.error,
            self.errors,
            items=self.items,
            tokens=self.tokens,
            slopes=self.slopes,
            vectors=self.vectors,
        )

    def block_at(self, line: int = 0) -> Block | None:
        """Where its responses lie; ``line`` is its own in the journal."""
        return Block(*self.block, line) if self.block else None


def _plain(found: Mapping[str, V] | None) -> dict[str, V] | None:
    return None if found is None else dict(found)


class DecisionLine(Line, frozen=True, kw_only=True, tag="decision"):
    """The optimizer decided something before it asked for ``batch``: for the reader, not for a resume."""

    batch: int
    text: str


class SettledLine(Line, frozen=True, kw_only=True, tag="settled"):
    """Base and parents are scored: what counts, by which yardsticks."""

    gains: dict[str, float]
    unable: dict[str, str]

    @classmethod
    def of(cls, settled: Settled) -> SettledLine:
        return cls(time=clock.now(), gains=dict(settled.gains), unable=dict(settled.unable))

    @property
    def settled(self) -> Settled:
        return Settled(self.gains, self.unable)


class ClosedLine(Line, frozen=True, kw_only=True, tag="closed"):
    """The search phase was ended early."""

    reason: str


class ExtendedLine(Line, frozen=True, kw_only=True, tag="extended"):
    """The budget was extended. ``budget``: its totals from here on, by name; None is no limit.

    Where it stands decides: what was asked before it, was asked by the budget before.
    """

    budget: dict[str, int | float | None]

    def __post_init__(self) -> None:
        if self.budget.keys() != set(BUDGETS):
            raise ValueError(f"expected {', '.join(BUDGETS)}, found {sorted(self.budget)!r:.60}")
        if any(isinstance(limit, bool) or not (limit or 1) > 0 for limit in self.budget.values()):
            raise ValueError("a budget is above 0")


class RoundLine(Line, frozen=True, kw_only=True, tag="round"):
    """A round of the shortlist was judged."""

    batch: int
    last: bool
    dropped: tuple[Dropped, ...]
    invalid: dict[int, tuple[str, ...]]
    saved: int
    unraced: str
    front: tuple[Member, ...]
    floors: dict[int, float]
    confidence: float

    @classmethod
    def of(cls, verdict: Verdict) -> RoundLine:
        invalid = {candidate: tuple(why) for candidate, why in verdict.invalid.items()}
        return cls(
            time=clock.now(),
            batch=verdict.batch,
            last=verdict.last,
            dropped=verdict.dropped,
            invalid=invalid,
            saved=verdict.saved,
            unraced=verdict.unraced,
            front=verdict.front,
            floors=dict(verdict.floors),
            confidence=verdict.confidence,
        )

    @property
    def verdict(self) -> Verdict:
        return Verdict(
            batch=self.batch,
            last=self.last,
            dropped=self.dropped,
            invalid=self.invalid,
            saved=self.saved,
            unraced=self.unraced,
            front=self.front,
            floors=self.floors,
            confidence=self.confidence,
        )


class EndLine(Line, frozen=True, kw_only=True, tag="end"):
    """The search is done. ``table``: ``Table.plain``; ``looks``: who had seen these report items before."""

    table: dict[str, Any]
    looks: str

    @property
    def final(self) -> Table:
        return Table.from_plain(self.table)


_Any = (
    Head
    | SessionLine
    | BatchLine
    | EvaluationLine
    | DecisionLine
    | SettledLine
    | ClosedLine
    | ExtendedLine
    | RoundLine
    | EndLine
)
_decode = msgspec.json.Decoder[_Any](_Any).decode


def read_lines(path: Path) -> Iterator[Line]:
    """The events of a run's journal, one after the other, also while a search writes it.

    Raises:
        InputError: it is absent or of another format, or an event is not what is written.
    """
    return lines_of(path, journal.texts(path))


def lines_of(
    path: Path, texts: Iterable[bytes], head: Head | None = None, before: int = 0
) -> Iterator[Line]:
    """The events of the journal at ``path``, which begins with a ``Head``, one after the other.

    Args:
        path: for messages.
        texts: of its events.
        head, before: of the journal, and the number of lines before the first event, where that is another.

    Raises:
        InputError: one is not what is written.
    """
    names = [objective.name for objective in head.objectives] if head else []
    for number, text in enumerate(texts, start=before + 1):
        try:
            line = line_of(text)
            if not 0 <= line.time <= clock.LONGEST:
                raise ValueError(f"{line.time!r:.60} is no time")
            if (number == 1) != isinstance(line, Head):
                raise ValueError("a journal begins with its run, and holds one")
            if isinstance(line, Head):
                names = [objective.name for objective in line.objectives]
            elif isinstance(line, EvaluationLine):
                for found in (line.values, line.errors):
                    if found is not None and list(found) != names:
                        raise ValueError(f"{list(found)!r:.60} are not the objectives of this run")
                counts = (line.items, line.tokens, *(line.block or ()))
                if not 0 <= min(counts) <= max(counts) <= MOST:
                    raise ValueError(f"{counts!r:.60} items, tokens or bytes")
                for seconds in line.seconds.values():
                    if not 0 <= seconds <= MOST_SECONDS:
                        raise ValueError(f"{seconds!r:.60} seconds of work")
            elif isinstance(line, BatchLine):
                for each in line.candidates:
                    if each.genome and not 0 <= min(each.genome) <= max(each.genome) <= 1:
                        raise ValueError(f"a gene of candidate {each.id} is not between 0 and 1")
            elif isinstance(line, EndLine):
                _ = line.final
            elif isinstance(line, SettledLine) and (
                {*line.gains, *line.unable} != {*names}
                or not all(0 < gain < math.inf for gain in line.gains.values())
            ):
                raise ValueError("expected a yardstick above 0, or a reason, of each objective")
        except SENSELESS as error:
            raise senseless(path, number, error) from error
        yield line


def head_at(path: Path) -> Head | None:
    """The first event of the journal at ``path``; None where there is none yet.

    Raises:
        InputError: it is absent or of another format, or its first line is damaged.
    """
    line = next(read_lines(path), None)
    assert line is None or isinstance(line, Head)
    return line


@dataclass
class Survey:
    """What is known of a journal beside what a history folds; a fold over its lines.

    Attributes:
        head: the first line.
        blocks: of the response store, in order.
        end: the last ``EndLine``.
        seconds: over all sessions: from each start to the last event before the next.
        worked: by workers, over all sessions: items, tokens, and seconds of each thing they do.
        decisions: that were told.
        count: of lines.
        newest: when the last line was written; 0.0 before the first.
        last: the same, in this session; None before the first.
    """

    head: Head | None = None
    blocks: list[Block] = field(default_factory=list)
    end: EndLine | None = None
    seconds: float = 0.0
    worked: Counter[str] = field(default_factory=Counter)
    decisions: list[str] = field(default_factory=list)
    count: int = 0
    newest: float = 0.0
    last: float | None = None

    def add(self, line: Line) -> None:
        """The next line."""
        self.count += 1
        self.newest = line.time
        if isinstance(line, EvaluationLine):
            worked = self.worked
            for what, seconds in line.seconds.items():
                worked[what] += seconds  # type: ignore[assignment]
            worked["items"] += line.items
            worked["tokens"] += line.tokens
            if block := line.block_at(self.count):
                self.blocks.append(block)
        elif isinstance(line, Head):
            self.head = line
        elif isinstance(line, SessionLine):
            self.last = line.time
        elif isinstance(line, EndLine):
            self.end = line
        elif isinstance(line, DecisionLine):
            self.decisions.append(line.text)
        if self.last is not None:
            self.seconds += line.time - self.last
            self.last = line.time

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Survey:
        made = cls()
        for line in lines:
            made.add(line)
        return made


def line_of(text: bytes) -> Line:
    """The event that ``Line.plain`` was made from, from its JSON text.

    Raises:
        ValueError, RecursionError: it is none.
    """
    try:
        found: Line = _decode(text)
        return found
    except (ValueError, RecursionError):  # half a surrogate pair, or no such event
        return msgspec.convert(journal.loads(text), _Any, str_keys=True)  # type: ignore[no-any-return]


# what a line that makes no sense may raise
SENSELESS = (
    *(InputError, RunError, ValueError),
    *(AttributeError, LookupError, TypeError, RecursionError, OverflowError),
)


def senseless(path: Path, line: int, error: Exception) -> InputError:
    """What to raise where ``error`` came of this line of a journal: it is told with its place."""
    if isinstance(error, (InputError, RunError)):
        return journal.damaged(path, line, str(error))
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return journal.damaged(path, line, cut(f"{kind}{error}", 300))


@contextmanager
def reading(path: Path, line: int) -> Iterator[None]:
    """Whatever makes no sense in this line of a journal is told with its place.

    Raises:
        InputError: something made no sense.
    """
    try:
        yield
    except SENSELESS as error:
        raise senseless(path, line, error) from error


@contextmanager
def unswept() -> Iterator[None]:
    """What is folded stays: nobody looks through it for garbage meanwhile, which takes a third of the time."""
    swept = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if swept:
            gc.enable()


def fold(history: History, line: Line, template: Recipe, path: Path, number: int) -> None:
    """Fold what an event tells into ``history``; candidates are rebuilt on the run's ``template``.

    Args:
        history: is added to.
        line: the event, that has ``number`` in the journal at ``path``.
        template: a recipe without its body.

    Raises:
        ValueError: it does not follow from what was folded before. What is no event at all raises
            whatever comes of it: see ``reading``.
    """
    if isinstance(line, BatchLine):
        history.open(line.batch_on(template, path, number))
    elif isinstance(line, EvaluationLine):
        history.observe(line.evaluation)
    elif isinstance(line, SettledLine):
        history.settle(line.settled)
    elif isinstance(line, RoundLine):
        history.judge(line.verdict)
    elif isinstance(line, ClosedLine):
        history.close(line.reason)
    elif isinstance(line, ExtendedLine):
        history.extend(line.budget)
    elif isinstance(line, EndLine):
        history.end()


def versions() -> dict[str, str]:
    """Installed versions of the libraries a result may depend on."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def items_digest(items: Items) -> str:
    """16 hex digits that name a set of items."""
    flat = [text for name in sorted(items) for text in (name, *items[name], "")]
    return f"{seeds.key('items', *flat):032x}"[:16]
