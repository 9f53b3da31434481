"""The history of a search: a fold over its events, and what can be read off it.

Five kinds of events exist: a batch was opened, an evaluation arrived, the search phase was closed, a
round of the shortlist was judged, the table was made. Scores exist once a batch is complete, because
they are relative to base and parents: on the whole search split while it is searched, later on the
batch's own items.
``evolution.Search`` adds the proposing; a reader of a journal needs only this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.errors import RunError
from evomerge.evolution.archive import Elite, best
from evomerge.params import Genome
from evomerge.recipe import Recipe
from evomerge.suite.objectives import Score, Values

SEARCHED = ("references", "start", "search")  # phases that the evaluation budget pays for

Combine = Callable[[Values, Mapping[str, Values], Mapping[str, float]], Score]
Yardsticks = Callable[[Mapping[str, Values]], Mapping[str, float]]


@dataclass(frozen=True)
class Candidate:
    """A numbered recipe, with its genome if the search space holds it, and where it came from."""

    id: int
    origin: str
    recipe: Recipe
    genome: Genome | None = None


@dataclass(frozen=True)
class Batch:
    """Candidates asked together, to be scored on the same items.

    ``progress`` is the part of the search, 0 to 1, that was over when a search batch was asked.
    """

    number: int
    phase: str
    candidates: tuple[Candidate, ...]
    progress: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """A candidate's outcome in one batch: objective values, or why it failed.

    ``errors`` are standard errors of the values: 0 is exact on the batch's split, None is unknown.
    ``items`` and ``tokens`` went through the model for it; what was answered before cost nothing.
    """

    batch: int
    candidate: int
    values: Values | None
    error: str | None = None
    errors: Mapping[str, float | None] | None = None
    items: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Dropped:
    """A merge that left the race: ``leader`` beat it with this evidence on this many items."""

    candidate: int
    leader: int
    e_value: float
    items: int


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
    """

    batch: int
    last: bool
    dropped: tuple[Dropped, ...] = ()
    invalid: Mapping[int, Sequence[str]] = field(default_factory=dict)
    saved: int = 0
    unraced: str = ""


@dataclass
class _Progress:
    """A batch and what came of it so far."""

    batch: Batch
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    scores: dict[int, Score | None] = field(default_factory=dict)  # filled when complete

    @property
    def complete(self) -> bool:
        return len(self.evaluations) == len(self.batch.candidates)


class History:
    """See the module's text.

    Args:
        combine: objective values, references, yardsticks -> score.
        yardsticks: reference values on the search split -> yardsticks.
    """

    def __init__(self, combine: Combine, yardsticks: Yardsticks) -> None:
        self._combine, self._yardsticks = combine, yardsticks
        self._batches: list[_Progress] = []
        self.candidates: dict[int, Candidate] = {}
        self.gains: Mapping[str, float] = {}
        self.closed: str | None = None
        self.verdicts: list[Verdict] = []

    # -- folding --------------------------------------------------------------------------------

    def open(self, batch: Batch) -> None:
        """Fold: ``batch`` was opened.

        Raises:
            ValueError: it is not the next one, or lacks what must come before it.
        """
        if batch.number != len(self._batches):
            raise ValueError(f"batch {batch.number} where {len(self._batches)} was expected")
        self._check_complete(2 if batch.phase in SEARCHED else len(self._batches))
        if self.unjudged is not None:
            raise ValueError(f"the verdict on batch {self.unjudged} is missing before it")
        self._batches.append(_Progress(batch))
        self.candidates.update({c.id: c for c in batch.candidates})

    def close(self, reason: str) -> None:
        """Fold: nothing more is asked for; go on to the shortlist."""
        self.closed = reason

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
        progress = (
            self._batches[evaluation.batch] if evaluation.batch < len(self._batches) else None
        )
        if (
            progress is None
            or evaluation.candidate in progress.evaluations
            or all(c.id != evaluation.candidate for c in progress.batch.candidates)
        ):
            raise ValueError(
                f"an evaluation of candidate {evaluation.candidate} in batch {evaluation.batch}, which "
                "is not awaited"
            )
        progress.evaluations[evaluation.candidate] = evaluation
        if not progress.complete:
            return False
        references = self.references(progress.batch.number)
        if progress.batch.phase == "references":
            self.gains = self._yardsticks(references)
        for candidate in progress.batch.candidates:
            values = progress.evaluations[candidate.id].values
            progress.scores[candidate.id] = (
                None if values is None else self._combine(values, references, self.gains)
            )
        return True

    def end(self) -> None:
        """Fold: the table on the report split was made.

        Raises:
            ValueError: the report batch is not complete.
        """
        self._check_complete(len(self._batches))
        if self.phase != "report":
            raise ValueError("the end, before the report batch")

    def _check_complete(self, count: int) -> None:
        for progress in self._batches[:count]:
            for candidate in self.awaited(progress.batch.number):
                raise ValueError(
                    f"the evaluation of candidate {candidate.id} in batch {progress.batch.number} is "
                    "missing before it"
                )

    def references(self, batch: int) -> Mapping[str, Values]:
        """Values of base and parents that the scores of a complete batch are relative to.

        Raises:
            RunError: one of them failed; no candidate can be judged without them.
        """
        progress = self._batches[batch]
        if progress.batch.phase in SEARCHED:
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

    # -- reading --------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """Of the newest batch; empty before the first."""
        return self._batches[-1].batch.phase if self._batches else ""

    def complete(self) -> bool:
        """True if no evaluation is awaited."""
        return all(progress.complete for progress in self._batches)

    @property
    def done(self) -> bool:
        """True once the report batch is complete."""
        return self.phase == "report" and self.complete()

    @property
    def unjudged(self) -> int | None:
        """The round of the shortlist that is complete and awaits its verdict."""
        if self.phase != "select" or not self.complete():
            return None
        newest = self._batches[-1].batch.number
        return None if self.verdicts and self.verdicts[-1].batch == newest else newest

    @property
    def searched(self) -> int:
        """Candidates opened before the shortlist: what the evaluation budget counts."""
        return sum(len(p.batch.candidates) for p in self._batches if p.batch.phase in SEARCHED)

    @property
    def spent(self) -> dict[str, int]:
        """What arrived before the shortlist has used of each budget that is counted."""
        return {
            "evaluations": sum(
                len(p.evaluations) for p in self._batches if p.batch.phase in SEARCHED
            ),
            "items": self._sum("items", len(self._batches)),
            "tokens": self._sum("tokens", len(self._batches)),
        }

    def _sum(self, cost: str, batches: int) -> int:
        """Items or tokens that the first ``batches`` have cost, those of the search phases."""
        return sum(
            getattr(evaluation, cost)
            for progress in self._batches[:batches]
            if progress.batch.phase in SEARCHED
            for evaluation in progress.evaluations.values()
        )

    @property
    def looks(self) -> int:
        """Scores taken on the select split: candidates, summed over its rounds."""
        return sum(len(p.batch.candidates) for p in self._batches if p.batch.phase == "select")

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

    @property
    def batches(self) -> list[Batch]:
        return [progress.batch for progress in self._batches]

    @property
    def arrived(self) -> int:
        """Evaluations that arrived, of all phases."""
        return sum(len(progress.evaluations) for progress in self._batches)

    def evaluations(self, batch: int) -> Mapping[int, Evaluation]:
        """Evaluations of a batch so far, by candidate."""
        return self._batches[batch].evaluations

    def awaited(self, batch: int) -> list[Candidate]:
        """Candidates of a batch that have no evaluation yet."""
        progress = self._batches[batch]
        return [c for c in progress.batch.candidates if c.id not in progress.evaluations]

    def elites(self, *phases: str) -> list[Elite]:
        """Scored candidates of complete batches, in order of batches."""
        found = []
        for progress in self._batches:
            if progress.batch.phase in phases:
                for candidate, score in progress.scores.items():
                    values = progress.evaluations[candidate].values
                    if score is not None and values is not None:
                        found.append(Elite(candidate, progress.batch.number, score, values))
        return found

    def merges(self) -> list[Elite]:
        """Scored merges of the search, references and re-scorings left out."""
        return self.elites("start", "search")

    @property
    def best(self) -> Elite | None:
        """The best merge by search score: an optimistic, noisy figure."""
        return next(iter(best(self.merges())), None)

    @property
    def baselines(self) -> list[int]:
        """The uniform soup and the best of the task-arithmetic sweep, by search score."""
        starts = self.elites("start")
        origin = {e.candidate: self.candidates[e.candidate].origin for e in starts}
        uniform = [e.candidate for e in starts if origin[e.candidate] == "uniform"]
        sweep = best([e for e in starts if origin[e.candidate].startswith("task_arithmetic")])
        return uniform + [e.candidate for e in sweep]

    @property
    def winner(self) -> int | None:
        """The best merge of the newest judged round of the shortlist; None before, or if all failed.

        Invalid merges rank below all others.
        """
        if not self.verdicts:
            return None
        references = {c.id for c in self._batches[0].batch.candidates}
        newest = self.verdicts[-1]
        ranked = self.ranked(newest.batch, newest.invalid)
        return next((e.candidate for e in ranked if e.candidate not in references), None)

    def ranked(self, batch: int, invalid: Collection[int] = ()) -> list[Elite]:
        """The scored candidates of a complete batch, best first, ``invalid`` ones last."""
        found = [e for e in self.elites(self._batches[batch].batch.phase) if e.batch == batch]
        return sorted(best(found, len(found)), key=lambda elite: elite.candidate in invalid)
