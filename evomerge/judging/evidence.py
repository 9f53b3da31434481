"""What is known of a value or a score: bootstrap intervals, and the test of a difference.

Intervals are expanded percentiles over resampled sources. The same resamples serve every objective
of every model, so a combined score, or the difference of two models, is paired item by item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge import seeds
from evomerge.evolution.history import History
from evomerge.inference.comparison import Array, Sums, mcnemar, swap_labels
from evomerge.inference.intervals import Interval, Resampled, Resamples, jointly
from evomerge.judging.estimation import spread
from evomerge.suite.objectives import (
    BASE,
    Objective,
    Values,
    entering,
    weightless,
    why_bent,
    with_derived,
)
from evomerge.suite.ranges import ANY, ranges
from evomerge.suite.scorer import UNBOUNDED, Items, Results, column
from evomerge.suite.suite import Suite

DRAWS = 2000
SWAPS = 2000  # where each one is scored by itself; else comparison.FLIPS

ByObjective = dict[str, Resampled]  # objective name -> estimate


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of the sources of some items, for every model that answered them."""

    suite: Suite
    items: Items
    resamples: Resamples
    seed: int

    @classmethod
    def of(cls, suite: Suite, items: Items, seed: int) -> Bootstrap:
        sources = [suite.source_of[name][item] for name, ids in items.items() for item in ids]
        return cls(suite, items, Resamples.of(sources, DRAWS, seed, "intervals"), seed)

    def values(self, results: Results, model: seeds.Part, *, paired: bool = False) -> ByObjective:
        """Every objective of ``model``, which answered (at least) the items.

        ``paired``: for differences of models alone; see ``metric``.
        """
        found = {
            objective.name: self.metric(
                results, model, objective.scorer, objective.metric, paired=paired
            )
            for objective in self.suite.measured
        }
        return {
            objective.name: jointly(
                lambda *parts, o=objective: o.derive(dict(zip(o.of, parts, strict=True))),
                *(found[name] for name in objective.of),
            )
            if objective.of
            else found[objective.name]
            for objective in self.suite.objectives
        }

    def metric(
        self, results: Results, model: seeds.Part, name: str, metric: str, *, paired: bool = False
    ) -> Resampled:
        """One metric of scorer ``name``; what is unknown of a unanimous share is ``model``'s own.

        ``paired``: nothing is drawn of that, as in a difference of models it is unknown of both alike.
        """
        responses, scorer = results[name], self.suite.scorers[name]
        value_of = dict(zip(responses["items"], column(responses, metric), strict=True))
        chosen = [item for item in self.items[name] if value_of[item] is not None]
        values = [value_of[item] for item in chosen]
        sources = [self.suite.source_of[name][item] for item in chosen]
        sums = self.suite.sums(name, metric, values)
        if sums is None:
            return self.resamples.function(
                lambda index: scorer.aggregate(metric, [values[i] for i in index]), sources
            )
        if not paired and _binary([values]) and not set(metric.split("*")) & set(UNBOUNDED):
            key = self.seed, "share", model, name, metric
            return self.resamples.share(values, sources, *key)
        return self.resamples.ratio(sums.scale * sums.over, sums.under, sources)

    def score(
        self, values: ByObjective, references: Mapping[str, ByObjective], gains: Values
    ) -> Resampled:
        """The combined score, draw by draw: the model and the base, if it counts, move together.

        What does not enter the score stays at its value: what is unknown of it does not matter.
        """
        suite = self.suite
        names = [objective.name for objective in suite.objectives if objective.weight]
        known = {origin: _values(part) for origin, part in references.items()}
        own = _values(values)

        def score(*drawn: float) -> float:
            ours = {**own, **dict(zip(names, drawn, strict=False))}
            base = {**known.get(BASE, {}), **dict(zip(names, drawn[len(names) :], strict=False))}
            return suite.combine(ours, {**known, BASE: base}, gains).value

        moving = [values] if suite.spec.combination == "mean" else [values, references[BASE]]
        return jointly(score, *(part[name] for part in moving for name in names))


def _values(estimates: ByObjective) -> dict[str, float]:
    return {name: estimate.value for name, estimate in estimates.items()}


@dataclass(frozen=True)
class PValue:
    """Two-sided; ``p`` is None where no test is known. ``how``: the test, or why there is none."""

    p: float | None
    how: str


def compare(
    suite: Suite,
    ours: Results,
    theirs: Results,
    references: Mapping[str, Values],
    gains: Values,
    key: tuple[seeds.Part, ...],
    *,
    label: str = "",
) -> PValue:
    """Whether two models' combined scores differ, by their answers to the same items.

    Args:
        suite: measures and combines.
        ours, theirs: responses to the same items in the same order.
        references: values of base and parents on these items.
        gains: the yardsticks.
        key: names the random swaps.
        label: which of the references ``theirs`` is, if it is one.
    """
    idle = {o.name for o in suite.objectives if o.name not in gains}
    plainly = suite.spec.combination == "mean"
    counted = suite.objectives if plainly else weightless(suite.objectives, idle)
    objectives = entering(counted)
    names = [objective.name for objective in objectives]
    number: dict[str, int] = {}
    for objective in objectives:
        of = suite.source_of[objective.scorer]
        for item in ours[objective.scorer]["items"]:
            number.setdefault(of[item], len(number))
    sums: tuple[list[Sums], list[Sums]] = ([], [])
    for objective in objectives:
        name, metric = objective.scorer, objective.metric
        rows = [number[suite.source_of[name][item]] for item in ours[name]["items"]]
        columns = [column(results[name], metric) for results in (ours, theirs)]
        if len(objectives) == 1 and len(number) == len(rows) and _binary(columns):
            a, b = np.array(columns)
            return PValue(mcnemar(int((a > b).sum()), int((a < b).sum())), "McNemar")
        for values, kept in zip(columns, sums, strict=True):
            found = suite.sums(name, metric, values)
            if found is None:
                return PValue(None, f"no test: {objective.name} is no mean and no ratio of sums")
            kept.append(found.by(np.array(rows, np.int64), len(number)))
    plain = suite.values(ours)

    def score(values: Values, theirs: Values) -> float:
        known = dict(references)
        if label:
            known[label] = suite.with_derived({**references[label], **theirs})
        return suite.combine(suite.with_derived({**plain, **values}), known, gains).value

    def looped(ours: Array, theirs: Array) -> Array:
        pairs = [
            [dict(zip(names, row, strict=True)) for row in rows.tolist()] for rows in (ours, theirs)
        ]
        return np.array([score(a, b) - score(b, b) for a, b in zip(*pairs, strict=True)])

    if why_bent(counted, suite.spec.combination) is None:
        slopes = np.array([score({n: plain[n] + 1}, {}) - score({}, {}) for n in names])
        p = swap_labels(*sums, lambda ours, theirs: (ours - theirs) @ slopes, *key)
        return PValue(p, "sign flips")
    return PValue(swap_labels(*sums, looped, *key, draws=SWAPS), "label swaps")


def search_interval(
    history: History, objectives: Sequence[Objective], batch: int, candidate: int
) -> Interval:
    """The score of a candidate of a search batch, and how far off it may be."""
    evaluation = history.evaluations(batch)[candidate]
    assert evaluation.values is not None

    def score(values: Values) -> float:
        return history.score(batch, with_derived(objectives, values)).value

    known = evaluation.errors or {}
    counted = entering(weightless(objectives, history.idle))
    errors = {objective.name: known.get(objective.name) for objective in counted}
    value, error = score(evaluation.values), spread(objectives, score, evaluation.values, errors)
    return Interval.around(value, error)


def score_range(
    history: History, objectives: Sequence[Objective], batch: int
) -> tuple[float, float]:
    """The least and the greatest combined score in a complete batch, by what values its metrics can have.

    Every combination grows with each objective, so the ends are those of all objectives together.
    """
    found = ranges([o for o in objectives if o.name not in history.idle or o.weight])
    ends = []
    for which in (0, 1):
        values = {
            o.name: found.get(o.name, ANY)[which if o.maximize else 1 - which] for o in objectives
        }
        known = history.references(batch)[BASE]
        open_ended = [name for name, value in values.items() if math.isinf(value)]
        counted = {o.name for o in objectives if o.weight}
        if counted & set(open_ended):
            ends.append(math.inf if which else -math.inf)
            continue
        whole = {**values, **{name: known[name] for name in open_ended}}
        ends.append(history.score(batch, whole).value)
    return ends[0], ends[1]


def _binary(columns: Sequence[Sequence[Any]]) -> bool:
    return all(value in (0, 1) for values in columns for value in values)
