"""Scoring: which items a candidate is asked, and what its answers are worth."""

from __future__ import annotations

from functools import cached_property

from evomerge.evolution.core import Search
from evomerge.evolution.history import Batch, Phase, Settled, Verdict
from evomerge.inference.intervals import Interval
from evomerge.judging.estimation import Estimation
from evomerge.judging.evidence import search_interval
from evomerge.judging.race import Race
from evomerge.judging.ranking import settle
from evomerge.judging.shortlist import judge
from evomerge.record.answers import Answers, At
from evomerge.record.responses import Block, Store
from evomerge.run.preflight import Run
from evomerge.suite.probe import ProbeLimits, probe_limits
from evomerge.suite.scorer import Items, Results
from evomerge.suite.splits import Split


class Scoring:
    """What the fold of a search does not hold: items and answers.

    Args:
        run: the run.
        search: is read only.
        store: of responses.
    """

    def __init__(self, run: Run, search: Search, store: Store) -> None:
        self._run, self._suite, self._search = run, run.suite, search
        self._history = search.history
        self._answers = Answers(store)
        self._items: list[Items] = []  # of each batch
        self._whole = Estimation(run.suite)

    def open(self, batch: Batch) -> Items:
        """Fold: ``batch`` is the next one, and the history has it; its items."""
        self._items.append(self._items_of(batch))
        return self._items[-1]

    def add(self, at: At, block: Block | None) -> None:
        """Fold: what evaluation ``at`` had to ask was asked, and the answers are ``block``."""
        self._answers.add(self.key(at), at, self.questions(at), block)

    def fail(self, at: At, error: str) -> None:
        """Fold: evaluation ``at`` failed, and its model with it."""
        self._answers.fail(self.key(at), error)

    # -- asking ---------------------------------------------------------------------------------

    def key(self, at: At) -> str:
        """Names a model: a recipe, and the dtype that it is scored in."""
        recipe = self._history.candidates[at[1]].recipe
        return f"{recipe.digest[:16]} {self.dtype(at)}"

    def dtype(self, at: At) -> str:
        """Of scoring: the report shows models as they are exported."""
        return self._run.dtype if self._phase(at) == Phase.REPORT else self._run.scoring

    def error(self, at: At) -> str | None:
        """Why the candidate's model failed before, if it did."""
        return self._answers.error(self.key(at))

    def items(self, at: At) -> Items:
        """What its batch asks of a candidate, but for the probe."""
        return self._items[at[0]]

    def missing(self, at: At) -> Items:
        """Those that the model was not asked before."""
        return self._answers.missing(self.key(at), self.items(at))

    def probe(self, at: At) -> Items:
        """Probe items that come first; none if the model passed them before."""
        if self._phase(at) == Phase.REPORT:
            return {}
        return self._answers.missing(self.key(at), self._probe)

    def questions(self, at: At) -> Items:
        """All that is asked for an evaluation."""
        probe, missing = self.probe(at), self.missing(at)
        return {
            name: [*probe.get(name, ()), *missing.get(name, ())] for name in {**probe, **missing}
        }

    def reused(self, at: At) -> list[At]:
        """Earlier evaluations whose answers count for this one."""
        return self._answers.sources(self.key(at), self.items(at))

    @cached_property
    def limits(self) -> ProbeLimits:
        """What a merge may do to the probe; base and parents must have been scored."""
        return probe_limits([self._answers.results(key, self._probe) for key in self._models(0)])

    # -- answers --------------------------------------------------------------------------------

    def results(self, at: At) -> Results:
        """The responses of a candidate to its batch's items."""
        return self._answers.results(self.key(at), self.items(at))

    def values(self, at: At) -> tuple[dict[str, float], dict[str, float | None] | None]:
        """Values of a scored candidate, and their standard errors.

        Base, parents and known recipes answered the whole search split. A candidate of the search
        answered a sample; its values are those of the whole split, estimated from all that it ever
        answered of it and from what those before it did. On the shortlist and in the report values are
        those of the batch's items, and errors are None: there resamples tell.

        Raises:
            CandidateFailed: a value is not finite (``NonFinite``).
        """
        phase, key, split = self._phase(at), self.key(at), self._suite.splits[Split.SEARCH]
        if not phase.searched:
            return self._suite.values(self.results(at)), None
        estimation = self._estimation if phase == Phase.SEARCH else self._whole
        return estimation.values(self._answers.results(key, self._answers.known(key, split)))

    def interval(self, batch: int, candidate: int) -> Interval:
        """The score of a candidate of a search batch, and how far off it may be."""
        return search_interval(self._history, self._suite.objectives, batch, candidate)

    def settle(self) -> Settled:
        """What base and parents, all scored, settle: which objectives count, by which yardsticks."""
        history, split = self._history, self._suite.splits[Split.SEARCH]
        answers = {
            c.origin: self._answers.results(self.key((0, c.id)), split)
            for c in history.batches[0].candidates
        }
        return settle(self._suite, answers, history.references(0), self._run.spec.seed)

    def judge(self, batch: int) -> Verdict:
        """The verdict on a complete round of the shortlist."""
        return judge(
            self._history,
            self._suite,
            self._race,
            self._items[batch],
            lambda id: self.results((batch, id)),
        )

    @cached_property
    def _probe(self) -> Items:
        return {name: ids for name, ids in self._suite.splits[Split.PROBE].items() if ids}

    @cached_property
    def _race(self) -> Race | str:
        """How the shortlist is raced, or why it cannot be; base and parents must have been scored."""
        split = self._suite.splits[Split.SEARCH]
        known = [self._answers.results(key, split) for key in self._models(0)]
        return Race.of(self._suite, self._history.gains, known)

    @cached_property
    def _estimation(self) -> Estimation:
        split = self._suite.splits[Split.SEARCH]
        archive = [self._answers.results(key, split) for key in self._models(0, 1)]
        return Estimation(self._suite, archive)

    def _models(self, *batches: int) -> list[str]:
        """The models of complete batches that have answers, each once."""
        return list(
            dict.fromkeys(
                self.key((batch, candidate))
                for batch in batches
                for candidate, evaluation in sorted(self._history.evaluations(batch).items())
                if evaluation.values is not None
            )
        )

    def _items_of(self, batch: Batch) -> Items:
        """A split, a sample of the search split, or a round of the select split."""
        if batch.phase == Phase.SEARCH:
            return self._suite.sample(self._run.spec.seed, batch.number, batch.progress)
        if batch.phase == Phase.SELECT and isinstance(self._race, Race):
            earlier = sum(b.phase == Phase.SELECT for b in self._history.batches[: batch.number])
            return self._suite.rounds()[earlier]
        return self._suite.splits[batch.phase.scored_on]

    def _phase(self, at: At) -> Phase:
        return self._history.batches[at[0]].phase
