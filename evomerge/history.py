"""The history of a search: a fold over its events, and what can be read off it.

Three kinds of events exist: a batch was opened, an evaluation arrived, the search phase was closed.
Scores exist once a batch is complete, because they are relative to base and parents on the batch's
own items. ``evolution.Search`` adds the proposing; a reader of a journal needs only this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evomerge.archive import Elite, best
from evomerge.errors import InputError, RunError
from evomerge.fitness.objectives import Score, Values
from evomerge.params import Genome
from evomerge.recipe import Recipe

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
    """Candidates asked together and scored on the same items.

    ``references`` holds the objective values of base and parents on those items, where they are
    not members themselves.
    """

    number: int
    phase: str
    candidates: tuple[Candidate, ...]
    references: Mapping[str, Values] | None = None


@dataclass(frozen=True)
class Evaluation:
    """A candidate's outcome in one batch: objective values, or why it failed."""

    batch: int
    candidate: int
    values: Values | None
    error: str | None = None


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

    # -- folding --------------------------------------------------------------------------------

    def open(self, batch: Batch) -> None:
        """Fold: ``batch`` was opened."""
        if batch.number != len(self._batches):
            raise InputError(
                f"the journal is damaged: batch {batch.number} where {len(self._batches)} was expected; "
                "restore it from a copy, or start anew in another folder"
            )
        self._batches.append(_Progress(batch))
        self.candidates.update({c.id: c for c in batch.candidates})

    def close(self, reason: str) -> None:
        """Fold: nothing more is asked for; go on to the shortlist."""
        self.closed = reason

    def observe(self, evaluation: Evaluation) -> bool:
        """Fold: an evaluation arrived. True if it completed its batch (whose scores now exist).

        Raises:
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
            raise InputError(
                f"the journal is damaged: an unexpected evaluation of candidate {evaluation.candidate} in "
                f"batch {evaluation.batch}; restore it from a copy, or start anew in another folder"
            )
        progress.evaluations[evaluation.candidate] = evaluation
        if not progress.complete:
            return False
        references = self._references(progress)
        if progress.batch.phase == "references":
            self.gains = self._yardsticks(references)
        for candidate in progress.batch.candidates:
            values = progress.evaluations[candidate.id].values
            progress.scores[candidate.id] = (
                None if values is None else self._combine(values, references, self.gains)
            )
        return True

    def _references(self, progress: _Progress) -> Mapping[str, Values]:
        if progress.batch.references is not None:
            return progress.batch.references
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
    def searched(self) -> int:
        """Candidates opened before the shortlist: what the evaluation budget counts."""
        return sum(len(p.batch.candidates) for p in self._batches if p.batch.phase in SEARCHED)

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
        """The merge with the best score on the select split; None before, or if all failed."""
        references = {c.id for c in self._batches[0].batch.candidates} if self._batches else set()
        found = best([e for e in self.elites("select") if e.candidate not in references])
        return found[0].candidate if found else None
