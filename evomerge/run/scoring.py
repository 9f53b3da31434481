"""Scoring: which items a candidate is asked, and what its answers are worth."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.errors import CandidateFailed
from evomerge.evolution.core import Search
from evomerge.evolution.history import Batch, Phase, Settled, Verdict
from evomerge.inference.intervals import NORMAL, Interval
from evomerge.judging.credit import Credit
from evomerge.judging.estimation import Estimation
from evomerge.judging.evidence import search_interval
from evomerge.judging.examples import examples
from evomerge.judging.lead import lead
from evomerge.judging.race import Race
from evomerge.judging.ranking import settle
from evomerge.judging.shortlist import judge
from evomerge.params import Genome
from evomerge.record.answers import Answers, At
from evomerge.record.responses import Block, Store
from evomerge.registry import LOSSES
from evomerge.rows import Array, array_of
from evomerge.run.preflight import Run
from evomerge.suite.objectives import Objective, entering
from evomerge.suite.probe import ProbeLimits, probe_limits
from evomerge.suite.scorer import Items, Results, column
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
        return f"{self._history.candidates[at[1]].digest[:16]} {self.dtype(at)}"

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
        batch = self._history.batches[at[0]]
        if batch.phase == Phase.REPORT or (batch.phase.searched and batch.slopes):
            return {}  # a slope is worth its items, whatever the model has become
        return self._answers.missing(self.key(at), self._probe)

    def questions(self, at: At) -> Items:
        """All that is asked for an evaluation."""
        probe, missing = self.probe(at), self.missing(at)
        return {
            name: [*probe.get(name, ()), *missing.get(name, ())] for name in {**probe, **missing}
        }

    def slope(self, at: At) -> Items:
        """Items by which the slope of a candidate is wanted: a minibatch of those whose scorers teach."""
        wanted = set(self._run.teaching.values())
        batch = self._history.batches[at[0]]
        if not batch.phase.searched or not self._history.candidates[at[1]].slope:
            return {}
        drawn = self._suite.minibatch(self._run.spec.seed, at[0], _size_of_slope(batch))
        return {name: ids for name, ids in drawn.items() if name in wanted and ids}

    def shown(self, items: Items) -> dict[str, dict[str, str]]:
        """Scorer -> item -> a right answer of base or parents, for ``items`` that are taught by one.

        Of what they answered before all else: a resumed search shows the same.
        """
        return {
            name: {id: self._examples[name][id] for id in ids if id in self._examples[name]}
            for name, ids in items.items()
            if name in self._examples
        }

    @cached_property
    def _examples(self) -> dict[str, dict[str, str]]:
        split, known = self._suite.splits[Split.SEARCH], self._models(0)
        results = [self._answers.results(key, split) for key in known]
        scorers = {self._run.teaching[name] for name in self._suite.shown()}
        return {name: examples(self._suite, name, results) for name in sorted(scorers)}

    def teachers(self, items: Items) -> dict[str, dict[str, Any]]:
        """Scorer -> the recipe of the model that does best at it, of base and parents, if the loss follows one.

        Best at the first objective that the scorer teaches; of equal ones the first.
        """
        if not items or not LOSSES.get(self._suite.spec.slopes.loss).FOLLOWS:
            return {}
        return {name: self._teachers[name] for name in items}

    @cached_property
    def _teachers(self) -> dict[str, dict[str, Any]]:
        values = self._history.references(0)
        recipes = {c.origin: c.recipe for c in self._history.batches[0].candidates}
        found: dict[str, dict[str, Any]] = {}
        for objective in self._suite.measured:
            if objective.name in self._run.teaching:
                best = max(values, key=lambda m: objective.sign * values[m][objective.name])
                found.setdefault(objective.scorer, recipes[best].portable().plain)
        return found

    def slopes(self, at: At, found: Mapping[str, Any]) -> dict[str, Genome]:
        """The slope of every objective that is taught, by the genes, in the objective's own direction.

        Args:
            at: the evaluation.
            found: scorer -> its slope by the recipe's coefficients, as a worker gives it.

        Raises:
            CandidateFailed: one is not finite.
        """
        genome = self._history.candidates[at[1]].genome
        assert genome is not None
        asked = self.slope(at)
        pulled = {
            # items that teach nothing have the slope 0
            name: [
                value * each["items"] / len(asked[name])
                for value in self._run.space.pull(genome, each["tensors"])
            ]
            for name, each in found.items()
        }
        slopes = {
            objective: tuple(sign * value for value in pulled[scorer])
            for objective, scorer, sign in self._taught(found)
        }
        if not all(math.isfinite(value) for slope in slopes.values() for value in slope):
            raise CandidateFailed("its slope is not finite")
        return slopes

    def _taught(self, found: Collection[str]) -> Iterator[tuple[str, str, float]]:
        """Objectives that the scorers ``found`` teach: name, scorer, and 1 if more is better, -1 if less."""
        sign = {objective.name: objective.sign for objective in self._suite.measured}
        for objective, scorer in self._run.teaching.items():
            if scorer in found:
                yield objective, scorer, sign[objective]

    def by_rows(self, at: At) -> bool:
        """Whether the slope of a candidate is wanted by its row weights."""
        return self._phase(at) == Phase.ROWS

    def row_slopes(self, at: At, found: Mapping[str, Any]) -> dict[str, Array]:
        """As ``slopes``, by every row weight.

        Raises:
            CandidateFailed: one is not finite.
        """
        asked = self.slope(at)
        slopes = {
            # items that teach nothing have the slope 0
            objective: (
                array_of(found[scorer]["rows"])
                * np.float32(sign * found[scorer]["items"] / len(asked[scorer]))
            )
            for objective, scorer, sign in self._taught(found)
        }
        if not all(np.isfinite(slope).all() for slope in slopes.values()):
            raise CandidateFailed("its slope is not finite")
        return slopes

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
        sampled = phase in (Phase.SEARCH, Phase.ROWS) or (
            phase == Phase.START and self._suite.spec.start is not None
        )
        estimation = self._estimation if sampled else self._whole
        return estimation.values(self._answers.results(key, self._answers.known(key, split)))

    def credit(self, at: At) -> Mapping[str, Mapping[str, float]]:
        """What the answers of a scored candidate to search items are worth: objective -> item -> 0 to 1.

        Of all that it was asked in this batch and in those before, which is the same whatever came early.
        """
        key = self.key(at)
        known = self._answers.known(key, self._suite.splits[Split.SEARCH], until=at[0])
        asked = {name: ids for name, ids in known.items() if ids}
        return self._credit.of(self._answers.results(key, asked))

    def lead(self, at: At) -> tuple[float, float] | None:
        """By how much a candidate leads the first of its batch on the batch's items; its error."""
        history = self._history
        first = history.batches[at[0]].candidates[0].id
        evaluations = history.evaluations(at[0])
        values = evaluations[first].values
        if values is None or evaluations[at[1]].values is None:
            return None
        ours, theirs = self.results(at), self.results((at[0], first))
        whole = history.shares(at[0], values)
        free = self._suite.shares(values, history.references(at[0]), history.gains, floors=False)
        floors = {name: share - free[name] for name, share in whole.items()}
        return lead(self._suite, free, ours, theirs, floors)

    def margin(self, at: At) -> float:
        """By how much the score of an evaluation must lead another's to count.

        Its standard error, where that is known, and no less than what one item more would add to it, where
        items are right or wrong.
        """
        values = self._history.evaluations(at[0])[at[1]].values
        assert values is not None
        interval = self.interval(*at)
        error = 0.0 if interval.why else (interval.high - interval.value) / NORMAL
        shares, asked = self._history.shares(at[0], values), self.items(at)
        steps = [
            abs(shares.get(objective.name, 0.0)) / len(asked[objective.scorer])
            for objective in self._stepped
            if asked.get(objective.scorer)
        ]
        return max(error, *steps, 0.0)

    @cached_property
    def _stepped(self) -> list[Objective]:
        """Objectives whose items are right or wrong."""
        split = self._suite.splits[Split.SEARCH]
        known = self._answers.results(self._models(0)[0], split)
        return [
            objective
            for objective in entering(self._suite.objectives)
            if all(v in (0, 1, None) for v in column(known[objective.scorer], objective.metric))
        ]

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
    def _credit(self) -> Credit:
        split = self._suite.splits[Split.SEARCH]
        return Credit(self._suite, [self._answers.results(key, split) for key in self._models(0)])

    @cached_property
    def _estimation(self) -> Estimation:
        """From what base, parents and known recipes answered, as far as that is the whole search split."""
        split = self._suite.splits[Split.SEARCH]
        # where known recipes answer a sample, base and parents alone are known whole
        batches = (0, 1) if self._suite.spec.start is None else (0,)
        archive = [self._answers.results(key, split) for key in self._models(*batches)]
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
        searched = batch.phase in (Phase.SEARCH, Phase.ROWS)
        if searched and batch.fresh:
            return self._suite.fresh
        if searched:
            seed = self._run.spec.seed
            if batch.slopes:
                return self._suite.glance(seed, batch.number, _size_of_slope(batch))
            return self._suite.sample(seed, batch.number, batch.progress)
        if batch.phase == Phase.START:
            return self._suite.known(self._run.spec.seed)
        if batch.phase == Phase.SELECT and isinstance(self._race, Race):
            return self._suite.rounds()[len(self._history.rounds) - 1]
        if batch.phase == Phase.SELECT:
            return self._suite.shortlisted
        return self._suite.splits[batch.phase.scored_on]

    def _phase(self, at: At) -> Phase:
        return self._history.batches[at[0]].phase


def _size_of_slope(batch: Batch) -> float:
    """From the items of an early candidate, 0, to those of a late one, 1: thousands of rows take more."""
    return 1.0 if batch.phase == Phase.ROWS else 0.0
