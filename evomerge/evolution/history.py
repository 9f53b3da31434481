"""The history of a search: a fold over its events, and what can be read off it.

Seven kinds of events exist: a batch was opened, an evaluation arrived, the yardsticks were settled, the
search phase was closed, the budget was extended, a round of the shortlist was judged, the table was made.
Scores exist once a batch is complete, because
they are relative to base and parents: on the whole search split while it is searched, later on the
batch's own items.
``evolution.core.Search`` has one and proposes from it; a reader of a journal needs only this. What a
search asks at each step takes a time that does not grow with the history.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from evomerge.errors import RunError
from evomerge.evolution.archive import Elite
from evomerge.evolution.archive.best import Best, best
from evomerge.evolution.candidate import Candidate
from evomerge.params import Genome
from evomerge.recipe import Body, Recipe
from evomerge.suite.objectives import CONFIDENCE, Score, Values
from evomerge.suite.splits import Split

Combine = Callable[[Values, Mapping[str, Values], Mapping[str, float]], Score]
Shares = Callable[[Values, Mapping[str, Values], Mapping[str, float]], Mapping[str, float]]
Yardsticks = Callable[[Mapping[str, Values]], Mapping[str, float]]


class Phase(StrEnum):
    """Of a search; its batches come in this order, from ``SEARCH`` on again after an extension."""

    REFERENCES = (
        "references"  # base and parents, on the whole search split: they fix the yardsticks
    )
    START = "start"  # the known recipes, on the whole search split: the optimizer's warm start
    SEARCH = "search"  # what the optimizer asks for
    ROWS = "rows"  # a descent on row weights, from what the optimizer recommends
    SELECT = "select"  # the shortlist, in rounds, on items that no search has seen
    REPORT = (
        "report"  # base, parents, baselines and what was chosen, on items that no choice has seen
    )

    @property
    def searched(self) -> bool:
        """True if the budget pays for it."""
        return self not in (Phase.SELECT, Phase.REPORT)

    @property
    def scored_on(self) -> Split:
        """The item split that it is scored on."""
        return Split.SEARCH if self.searched else Split(self.value)


OUT_OF_HOURS = "out of hours"  # why a search phase is closed that took too long
SLOPE_COST = 3  # item-forwards that a forward and a backward pass of an item take
LIKELY = 0.5
MISSED = 2  # the tier of who more likely than not misses a floor
MERGED = (Phase.START, Phase.SEARCH, Phase.ROWS)  # phases whose candidates are tried merges


@dataclass(frozen=True)
class Batch:
    """Candidates asked together, to be scored on the same items.

    Attributes:
        number: in the search, from 0.
        phase: that it belongs to.
        candidates: in the order they were asked.
        progress: the part of the search, 0 to 1, that was over when a search batch was asked.
        seen: how many batches the optimizer had been told when it was asked for this one; 0 if it
            was not.
        fresh: whether its candidates are compared on search items by which no slope is taken.
    """

    number: int
    phase: Phase
    candidates: tuple[Candidate, ...]
    progress: float = 0.0
    seen: int = 0
    fresh: bool = False

    @property
    def slopes(self) -> bool:
        """Whether slopes are wanted of its candidates."""
        return any(candidate.slope for candidate in self.candidates)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A candidate's outcome in one batch: objective values, or why it failed.

    ``errors`` are standard errors of the values: 0 is exact on the batch's split, None is unknown.
    ``items`` and ``tokens`` went through the model for it; what was answered before cost nothing. An item of
    a slope counts as ``SLOPE_COST`` or a little more. ``slopes`` has, by measured objective, the derivative of
    a bounded stand-in for its value, in its own direction, by every gene, where it was wanted. ``vectors`` is
    the sha256 of a file with the same by every row weight.
    """

    batch: int
    candidate: int
    values: Values | None
    error: str | None = None
    errors: Mapping[str, float | None] | None = None
    items: int = 0
    tokens: int = 0
    slopes: Mapping[str, Genome] | None = None
    vectors: str | None = None


@dataclass(frozen=True)
class Settled:
    """What base and parents, once scored, settle.

    Attributes:
        gains: the yardsticks; an objective without one counts nothing.
        unable: objective -> why it cannot rank these models, and what follows.
    """

    gains: Mapping[str, float]
    unable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """A merge that left the race: ``leader`` beat it with this evidence on this many items."""

    candidate: int
    leader: int
    e_value: float
    items: int


@dataclass(frozen=True)
class Member:
    """A member of the front, and how likely none of the others on the shortlist dominates it."""

    candidate: int
    probability: float


@dataclass(frozen=True)
class Verdict:
    """What a complete round of the shortlist led to.

    Attributes:
        batch: the round.
        last: no round follows.
        dropped: who is not scored further.
        invalid: candidate -> why its scores cannot be compared.
        saved: item-evaluations that need not be made.
        unraced: why the only round asked the whole select split; empty after a race.
        front: its confirmed members, best first by score; empty if no front is asked for.
        floors: candidate -> how likely it holds all floors, by resamples of the round's items; empty
            if there are none.
        confidence: how likely they must be to count as confirmed.
    """

    batch: int
    last: bool
    dropped: tuple[Dropped, ...] = ()
    invalid: Mapping[int, Sequence[str]] = field(default_factory=dict)
    saved: int = 0
    unraced: str = ""
    front: tuple[Member, ...] = ()
    floors: Mapping[int, float] = field(default_factory=dict)
    confidence: float = CONFIDENCE

    def tier(self, candidate: int) -> int:
        """0: its floors are confirmed; 1: more likely than not they hold; ``MISSED``: they do not."""
        chance = self.floors.get(candidate, 1.0)
        return 0 if chance >= self.confidence else 1 if chance >= LIKELY else MISSED


@dataclass(frozen=True)
class Cost:
    """What evaluations have used of each budget that is counted."""

    evaluations: int = 0
    items: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.evaluations + other.evaluations,
            self.items + other.items,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True)
class Past:
    """What is left of a complete batch of the search that nobody looks into any more.

    Attributes:
        phase: that it belonged to.
        candidates: how many.
        cost: of their evaluations.
        failed: how many of these failed.
    """

    phase: Phase
    candidates: int
    cost: Cost
    failed: int


@dataclass
class _Progress:
    """A batch and what came of it so far."""

    batch: Batch
    awaited: dict[int, Candidate]
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    scores: dict[int, Score | None] = field(default_factory=dict)  # filled when complete
    cost: Cost = Cost()  # zero after the search phases

    @property
    def elites(self) -> list[Elite]:
        """Its candidates that have a score."""
        found = map(self.elite, self.scores)
        return [elite for elite in found if elite is not None]

    def elite(self, candidate: int) -> Elite | None:
        """A candidate with its score; None if it has none here."""
        score = self.scores.get(candidate)
        values = None if score is None else self.evaluations[candidate].values
        if score is None or values is None:
            return None
        return Elite(candidate, self.batch.number, score, values)


class History:
    """See the module's text.

    Args:
        combine: objective values, references, yardsticks -> score.
        yardsticks: reference values on the search split -> yardsticks.
        shares: objective values, references, yardsticks -> derivatives of the score.
        packing: candidates are packed once they are scored: a search holds them for weeks.

    Attributes:
        candidates: by id.
        batches: in order.
        gains: the yardsticks, once base and parents are scored.
        unable: objective -> why it cannot rank these models, once that is settled.
        closed: why the search phase was ended early, if it was.
        limits: the budgets as they were last extended: totals by name, None for no limit; empty before.
        extensions: how many batches there were at each extension.
        ended: tables that were made.
        verdicts: on the rounds of the shortlist.
        arrived: evaluations, of all phases.
        failed: those of them that failed.
        searched: candidates opened before the shortlist: what the evaluation budget counts.
        spent: what arrived before the shortlist has used.
    """

    def __init__(
        self,
        combine: Combine,
        yardsticks: Yardsticks,
        shares: Shares = lambda *_: {},
        *,
        packing: bool = True,
    ) -> None:
        self._combine, self._yardsticks, self._shares = combine, yardsticks, shares
        self._packing = packing
        self._batches: list[_Progress] = []
        self._open: set[int] = set()  # numbers of batches with evaluations that are awaited
        self._costs = [Cost()]  # of the first n batches, as far as they are complete in a row
        self._best = Best()
        self._behind = 0
        self._tabled = 0  # batches when the newest table was made
        self._template: Recipe | None = None  # of recipes, without a body
        self.candidates: dict[int, Candidate] = {}
        self.batches: list[Batch] = []
        self.gains: Mapping[str, float] = {}
        self.unable: Mapping[str, str] = {}
        self._settled = False
        self.closed: str | None = None
        self.limits: Mapping[str, float | None] = {}
        self.extensions: list[int] = []
        self.ended = 0
        self.verdicts: list[Verdict] = []
        self.arrived = self.failed = 0
        self._references = set[int]()  # ids of base and parents
        self._tried = set[int]()  # marks of merges that were evaluated
        self._unmarked: list[Candidate] = []  # those that are not among them yet
        self.searched = 0
        self.spent = Cost()

    # -- folding --------------------------------------------------------------------------------

    def open(self, batch: Batch) -> None:
        """Fold: ``batch`` was opened.

        Raises:
            ValueError: it is not the next one, or lacks what must come before it.
        """
        if batch.number != len(self._batches):
            raise ValueError(f"batch {batch.number} where {len(self._batches)} was expected")
        after = self.phase is not None and not self.phase.searched
        if after and batch.phase.searched and not self.reopened:
            raise ValueError(f"batch {batch.number} of the search after its shortlist")
        self._check_complete(2 if batch.phase.searched and not after else len(self._batches))
        if self.unjudged is not None:
            raise ValueError(f"the verdict on batch {self.unjudged} is missing before it")
        if batch.phase.searched:
            self._behind = self.behind
        if not batch.number:
            self._references = {c.id for c in batch.candidates}
        self._batches.append(_Progress(batch, {c.id: c for c in batch.candidates}))
        self.batches.append(batch)
        self.candidates.update({c.id: c for c in batch.candidates})
        if batch.phase.searched:
            self.searched += len(batch.candidates)
        if batch.candidates:
            self._open.add(batch.number)

    def settle(self, settled: Settled) -> None:
        """Fold: base and parents told which objectives count, by which yardsticks.

        Raises:
            ValueError: they are not all scored yet, or it was settled before.
        """
        if not self.unsettled:
            raise ValueError("yardsticks are settled once, when base and parents are scored")
        self.gains, self.unable, self._settled = settled.gains, settled.unable, True
        self._score(self._batches[0])

    def close(self, reason: str) -> None:
        """Fold: nothing more is asked for; go on to the shortlist."""
        self.closed = reason

    def extend(self, limits: Mapping[str, float | None]) -> None:
        """Fold: from here on the budgets are ``limits``; the search goes on, also after its shortlist."""
        self.limits, self.closed = dict(limits), None
        self.extensions.append(len(self._batches))

    def judge(self, verdict: Verdict) -> None:
        """Fold: a round of the shortlist was judged.

        Raises:
            ValueError: it does not await a verdict.
        """
        if verdict.batch != self.unjudged:
            raise ValueError(f"a verdict on batch {verdict.batch}, which awaits none")
        self.verdicts.append(verdict)

    def observe(self, evaluation: Evaluation) -> bool:
        """Fold: an evaluation arrived. True if it completed its batch (whose scores now exist).

        Raises:
            ValueError: it is not awaited.
            RunError: the base or a parent failed; no candidate can be judged without them.
        """
        self.check_awaited(evaluation.batch, evaluation.candidate)
        progress = self._batches[evaluation.batch]
        del progress.awaited[evaluation.candidate]
        progress.evaluations[evaluation.candidate] = evaluation
        self.arrived += 1
        self.failed += evaluation.values is None
        if evaluation.candidate not in self._references:
            self._unmarked.append(self.candidates[evaluation.candidate])
        if progress.batch.phase.searched:
            cost = Cost(1, evaluation.items, evaluation.tokens)
            progress.cost += cost
            self.spent += cost
        if progress.awaited:
            return False
        self._complete(progress)
        return True

    def skip(self, past: Past) -> None:
        """Fold: the next batch is long past."""
        self._behind = self.behind
        batch = Batch(len(self._batches), past.phase, ())
        self._batches.append(_Progress(batch, {}, cost=past.cost))
        self.batches.append(batch)
        self.searched += past.candidates
        self.arrived += past.cost.evaluations
        self.failed += past.failed
        self.spent += past.cost
        self._count_costs()

    def check_awaited(self, batch: int, candidate: int) -> None:
        """Refuse an evaluation that nobody waits for.

        Raises:
            ValueError: it is not awaited.
        """
        known = 0 <= batch < len(self._batches)
        if not known or candidate not in self._batches[batch].awaited:
            raise ValueError(
                f"an evaluation of candidate {candidate} in batch {batch}, which is not awaited"
            )

    def end(self) -> None:
        """Fold: the table on the report split was made.

        Raises:
            ValueError: the report batch is not complete.
        """
        self._check_complete(len(self._batches))
        if self.phase != Phase.REPORT:
            raise ValueError("the end, before the report batch")
        if self.tabled:
            raise ValueError("the end, once more")
        self.ended += 1
        self._tabled = len(self._batches)

    def _complete(self, progress: _Progress) -> None:
        """All evaluations of a batch are there: score them."""
        batch = progress.batch
        if batch.phase == Phase.REFERENCES:
            self.gains = self._yardsticks(self.references(batch.number))
        self._score(progress)
        self._open.discard(batch.number)
        self._count_costs()

    def _count_costs(self) -> None:
        while len(self._costs) <= len(self._batches) and self.complete(len(self._costs)):
            self._costs.append(self._costs[-1] + self._batches[len(self._costs) - 1].cost)

    def _score(self, progress: _Progress) -> None:
        batch = progress.batch
        references = self.references(batch.number)
        for candidate in batch.candidates:
            values = progress.evaluations[candidate.id].values
            score = None if values is None else self._combine(values, references, self.gains)
            progress.scores[candidate.id] = score
            if score is not None and values is not None and batch.phase in MERGED:
                self._best.add(Elite(candidate.id, batch.number, score, values))
            if self._packing and not candidate.packed:
                candidate.pack(self._frame_of(candidate))

    def _frame_of(self, candidate: Candidate) -> Recipe:
        """What the recipes of a search have in common."""
        if self._template is None:
            self._template = replace(candidate.recipe, body=Body(), provenance={})
        return self._template

    def _check_complete(self, count: int) -> None:
        for number in sorted(self._open):
            if number < count:
                first = next(iter(self._batches[number].awaited))
                raise ValueError(
                    f"the evaluation of candidate {first} in batch {number} is missing before it"
                )

    def references(self, batch: int) -> dict[str, Values]:
        """Values of base and parents: on the search split, in later phases on the batch's items.

        Raises:
            RunError: one of them failed.
        """
        progress = self._batches[batch]
        if progress.batch.phase.searched:
            progress = self._batches[0]
        found: dict[str, Values] = {}
        for candidate in self._batches[0].batch.candidates:
            evaluation = progress.evaluations[candidate.id]
            if evaluation.values is None:
                raise RunError(
                    f"{candidate.origin} itself could not be scored: {evaluation.error}. Every score "
                    "is relative to base and parents, so the search cannot go on"
                )
            found[candidate.origin] = evaluation.values
        return found

    def score(self, batch: int, values: Values) -> Score:
        """What ``values`` are worth in a complete batch."""
        return self._combine(values, self.references(batch), self.gains)

    def shares(self, batch: int, values: Values) -> Mapping[str, float]:
        """The derivative of the score by each measured objective, at ``values`` in a complete batch."""
        return self._shares(values, self.references(batch), self.gains)

    # -- reading --------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase | None:
        """Of the newest batch; None before the first."""
        return self._batches[-1].batch.phase if self._batches else None

    def complete(self, count: int | None = None) -> bool:
        """True if no evaluation is awaited, of the first ``count`` batches (default: of any)."""
        return not self._open or (count is not None and min(self._open) >= count)

    def cost(self, count: int) -> Cost:
        """What the first ``count`` batches have cost, those of the search phases; they are complete."""
        return self._costs[count]

    @property
    def done(self) -> bool:
        """True once the report batch is complete, and nothing is to follow it."""
        return self.reported and not (self.tabled and self.reopened)

    @property
    def reported(self) -> bool:
        """True if the newest batch is the report's, and complete."""
        return self.phase == Phase.REPORT and self.complete()

    @property
    def unsettled(self) -> bool:
        """True while base and parents are scored and nothing followed from it yet."""
        return len(self._batches) == 1 and self.complete() and not self._settled

    @property
    def idle(self) -> set[str]:
        """Objectives that count nothing, as they cannot rank these models."""
        return {name for name in self.unable if name not in self.gains}

    @property
    def tabled(self) -> bool:
        """True if the table of the newest batch was made."""
        return bool(self._batches) and self._tabled == len(self._batches)

    @property
    def reopened(self) -> bool:
        """True if the budget was extended after the newest batch was opened."""
        return bool(self.extensions) and self.extensions[-1] == len(self._batches)

    @property
    def behind(self) -> int:
        """Batches that a shortlist or report had behind it when the search went on: complete, and all told."""
        after = self.phase is not None and not self.phase.searched
        return len(self._batches) if after else self._behind

    @property
    def rounds(self) -> list[Batch]:
        """The rounds of the newest shortlist."""
        newest = itertools.takewhile(lambda b: not b.phase.searched, reversed(self.batches))
        return [batch for batch in newest if batch.phase == Phase.SELECT][::-1]

    @property
    def unjudged(self) -> int | None:
        """The round of the shortlist that is complete and awaits its verdict."""
        if self.phase != Phase.SELECT or not self.complete():
            return None
        newest = self._batches[-1].batch.number
        return None if self.verdicts and self.verdicts[-1].batch == newest else newest

    @property
    def looks(self) -> int:
        """Scores taken on the select split: candidates, summed over its rounds."""
        return sum(len(b.candidates) for b in self.batches if b.phase == Phase.SELECT)

    @property
    def saved(self) -> int:
        """Item-evaluations that the race of the shortlist made unnecessary."""
        return sum(verdict.saved for verdict in self.verdicts)

    @property
    def dropped(self) -> list[Dropped]:
        """Who left the race of the shortlist, in order."""
        return [dropped for verdict in self.verdicts for dropped in verdict.dropped]

    @property
    def invalid(self) -> Mapping[int, Sequence[str]]:
        """Merges whose newest scores on the select split cannot be compared, and why."""
        return self.verdicts[-1].invalid if self.verdicts else {}

    def evaluations(self, batch: int) -> Mapping[int, Evaluation]:
        """Evaluations of a batch so far, by candidate."""
        return self._batches[batch].evaluations

    def scores(self, batch: int) -> Mapping[int, Score | None]:
        """Scores of a complete batch, by candidate; None if it failed."""
        return self._batches[batch].scores

    @property
    def tried(self) -> int:
        """Merges that were evaluated, each once however often it was drawn or scored; failures count."""
        return len(self.marks)

    @property
    def marks(self) -> set[int]:
        """Of these merges (``Candidate.mark``)."""
        self._tried.update(candidate.mark for candidate in self._unmarked)
        self._unmarked.clear()
        return self._tried

    def past(self, batch: int) -> Past | None:
        """What to keep of a batch; None of one that matters still: the first, those of a shortlist or report,
        and where the best merge was scored, or an evaluation is awaited."""
        progress, best = self._batches[batch], self.best
        matters = not batch or not progress.batch.phase.searched or batch in self._open
        if matters or (best is not None and best.batch == batch):
            return None
        found = progress.evaluations.values()
        failed = sum(evaluation.values is None for evaluation in found)
        return Past(progress.batch.phase, len(progress.batch.candidates), progress.cost, failed)

    @property
    def under_way(self) -> list[Batch]:
        """Batches with evaluations that are awaited, in order."""
        return [self.batches[number] for number in sorted(self._open)]

    def awaited(self, batch: int) -> list[Candidate]:
        """Candidates of a batch that have no evaluation yet."""
        return list(self._batches[batch].awaited.values())

    def elites(self, *phases: Phase) -> list[Elite]:
        """Scored candidates of complete batches, in order of batches."""
        return [elite for p in self._batches if p.batch.phase in phases for elite in p.elites]

    def scored(self, candidate: int, *phases: Phase) -> list[Elite]:
        """Those of one candidate."""
        found = (p.elite(candidate) for p in self._batches if p.batch.phase in phases)
        return [elite for elite in found if elite is not None]

    def merges(self) -> list[Elite]:
        """Scored merges of the search, references and re-scorings left out."""
        return self.elites(*MERGED)

    @property
    def best(self) -> Elite | None:
        """The best merge by search score: an optimistic, noisy figure."""
        return next(iter(self._best.elites()), None)

    @property
    def baselines(self) -> list[int]:
        """The uniform soup and the best of the task-arithmetic sweep, by search score."""
        starts = self.elites(Phase.START)
        origin = {e.candidate: self.candidates[e.candidate].origin for e in starts}
        uniform = [e.candidate for e in starts if origin[e.candidate] == "uniform"]
        sweep = best([e for e in starts if origin[e.candidate].startswith("task_arithmetic")])
        return uniform + [e.candidate for e in sweep]

    @property
    def winner(self) -> int | None:
        """The best merge of the newest judged round of the shortlist; None before, or if all failed.

        Invalid merges rank below all others. Where there are floors, those that hold them with the asked
        confidence come first, then those that more likely than not do, each by score.
        """
        if not self.verdicts:
            return None
        references = {c.id for c in self.batches[0].candidates}
        newest = self.verdicts[-1]
        ranked = sorted(self.ranked(newest.batch), key=lambda e: _place(e, newest))
        return next((e.candidate for e in ranked if e.candidate not in references), None)

    @property
    def chosen(self) -> tuple[int, ...]:
        """What the search chose: the winner, then the other confirmed members of the front."""
        if self.winner is None:
            return ()
        members = (member.candidate for member in self.verdicts[-1].front)
        return tuple(dict.fromkeys((self.winner, *members)))

    def ranked(self, batch: int, invalid: Collection[int] = ()) -> list[Elite]:
        """The scored candidates of a complete batch, best first, ``invalid`` ones last."""
        found = self._batches[batch].elites
        return sorted(best(found, len(found)), key=lambda elite: elite.candidate in invalid)


def _place(elite: Elite, verdict: Verdict) -> tuple[bool, int, float]:
    """Sort key of a winner to be, the smallest first; the order of ``ranked`` decides what is equal."""
    tier = verdict.tier(elite.candidate) if verdict.floors else 0
    value = elite.score.value if verdict.floors and tier < MISSED else 0.0
    return (elite.candidate in verdict.invalid, tier, -value)
