"""Objective values on the whole search split, from answers to all of it or to a sample.

Base, parents and known recipes answer all of it. Their answers tell how items hang together, and
the suite's estimator turns a candidate's answers to a sample into the value that all items would
give, with a standard error. What can be estimated:

* a mean of numbers;
* a ratio of sums of pairs, as bits per byte, where the second of each pair is known beforehand.

Any other objective keeps its plain value on the sample, and no error is known of it; the log says so.

With anchors the sample is the anchors, always, and the two kinds above are weighted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge import estimators
from evomerge.suite.objectives import Objective, Values
from evomerge.suite.scorer import Responses, Results, column
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite

_log = logging.getLogger("evomerge.suite.scorer")

ANCHORED = "weighted anchors; error unknown"
Errors = Mapping[str, float | None]  # standard errors by objective; 0 is exact, None is unknown


class Estimation:
    """Values on the search split.

    Args:
        suite: measures.
        archive: responses of some models to the whole search split; without them only whole
            answers, or anchors, have values.
    """

    def __init__(self, suite: Suite, archive: Sequence[Results] = ()) -> None:
        self._suite = suite
        self._fitted = {
            o.name: _Fitted.of(suite, o, archive)
            for o in suite.measured
            if archive and o.scorer not in suite.spec.anchors
        }
        self._warned: set[str] = set()

    def values(self, results: Results) -> tuple[dict[str, float], dict[str, float | None]]:
        """Values and standard errors of all objectives.

        Raises:
            NonFinite: a value is not finite.
        """
        suite, values, errors = self._suite, dict[str, float](), dict[str, float | None]()
        for objective in suite.measured:
            values[objective.name], errors[objective.name] = self._value(objective, results)
        return suite.with_derived(values), {
            o.name: spread(
                suite.objectives, o.derive, values, {name: errors[name] for name in o.of}
            )
            if o.of
            else errors[o.name]
            for o in suite.objectives
        }

    def _value(self, objective: Objective, results: Results) -> tuple[float, float | None]:
        responses, suite = results[objective.scorer], self._suite
        if weights := suite.spec.anchors.get(objective.scorer):
            return _weighted(suite, objective, results, weights), None
        plain = suite.value(objective, results)  # may fail, whatever an estimate would say
        if len(responses["items"]) == len(suite.splits[Split.SEARCH][objective.scorer]):
            return plain, 0.0
        found = self._fitted.get(objective.name, "no model is known that answered them all")
        estimate = found if isinstance(found, str) else found.estimate(responses, objective.metric)
        if not isinstance(estimate, str):
            return estimate
        if objective.name not in self._warned:
            self._warned.add(objective.name)
            _log.warning(
                "%s: search scores are plain values of the sampled items, with unknown error: %s",
                objective.name,
                estimate,
            )
        return plain, None


def spread(
    objectives: Sequence[Objective],
    function: Callable[[Values], float],
    values: Values,
    errors: Errors,
) -> float | None:
    """The standard error of a function of objectives, to first order; None if any is unknown.

    Objectives of one scorer are answers to the same items and err together: their errors add up, which
    bounds the truth. Those of several scorers are independent: their squares do.

    Args:
        objectives: say who measures what.
        function: of ``values``.
        values: of measured objectives at least.
        errors: of those measured objectives that count.
    """
    scorer_of = {objective.name: objective.scorer for objective in objectives}
    by_scorer = dict.fromkeys(scorer_of.values(), 0.0)
    for name, error in errors.items():
        if error is None:
            return None
        high, low = (function({**values, name: values[name] + e}) for e in (error, -error))
        by_scorer[scorer_of[name]] += abs(high - low) / 2
    return math.hypot(*by_scorer.values())


@dataclass(frozen=True)
class _Fitted:
    """An estimator fitted to the archive's answers for one objective."""

    fitted: estimators.Fitted
    position: Mapping[str, int]  # item -> its column in the archive
    without: frozenset[str]  # items that the metric does not apply to
    under: NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, suite: Suite, objective: Objective, archive: Sequence[Results]) -> _Fitted | str:
        """A text that says why there is none, if there is none."""
        name = objective.scorer
        ids = archive[0][name]["items"]
        columns = [column(results[name], objective.metric) for results in archive]
        missing = [[value is None for value in values] for values in columns]
        known = [suite.sums(name, objective.metric, values) for values in columns]
        sums = [each for each in known if each is not None]
        if len(sums) < len(columns):
            return "it is no mean and no ratio of sums"
        if any(each != missing[0] for each in missing):
            return "the known models have values for different items"
        items = [at for at, none in enumerate(missing[0]) if not none]
        under = sums[0].under[items]
        scales = [each.scale for each in sums if each.over.sum()] or [1.0]
        if (
            not under.all()
            or any((each.under[items] != under).any() for each in sums)
            or not np.allclose(scales, scales[0], rtol=1e-9)
        ):
            return "what its values are divided by is not the same for all known models"
        labels = [suite.stratum_of[name][ids[at]] for at in items]
        codes = {label: code for code, label in enumerate(sorted(set(labels)))}
        strata = np.array([codes[label] for label in labels])
        margins = [_margins(results[name], items) for results in archive]
        rows = [row for row in margins if row is not None]
        whole = np.stack(rows) if len(rows) == len(archive) else None
        over = np.stack([each.over[items] for each in sums])
        fitted = _estimator(suite.spec.estimator, over).fit(estimators.Known(over, strata, whole))
        position = {ids[at]: number for number, at in enumerate(items)}
        return cls(fitted, position, frozenset(ids) - set(position), under, scales[0])

    def estimate(self, responses: Responses, metric: str) -> tuple[float, float] | str:
        """Value and error from a sample, or why there are none."""
        values = column(responses, metric)
        pairs = list(zip(responses["items"], values, strict=True))
        if any((value is None) != (item in self.without) for item, value in pairs):
            return "candidates have values for other items than the known models"
        rows = [row for row, value in enumerate(values) if value is not None]
        at = np.array([self.position[responses["items"][row]] for row in rows])
        numbers = np.array([values[row] for row in rows], np.float64)
        if numbers.ndim == 2:
            if not np.array_equal(numbers[:, 1], self.under[at]):
                return "candidates' values are divided by other numbers than the known models'"
            numbers = numbers[:, 0]
        margins = _margins(responses, rows)
        found = self.fitted.estimate(estimators.Sample(at, numbers, margins))
        scale = self.scale / float(np.mean(self.under))
        return scale * found.value, abs(scale) * found.error


def _estimator(name: str, known: NDArray[np.float64]) -> estimators.Estimator:
    """The estimator asked for; regression for numbers that item response theory has no model of."""
    probable = bool(((known >= 0) & (known <= 1)).all())
    return estimators.get(name if probable or "irt" not in name else estimators.FALLBACK)


def _margins(responses: Responses, rows: Sequence[int]) -> NDArray[np.float64] | None:
    """The margins of some items, NaN where there is none; None if the task has none."""
    found = responses["metrics"].get("margin")
    if found is None:
        return None
    return np.array([np.nan if found[row] is None else found[row] for row in rows])


def _weighted(
    suite: Suite, objective: Objective, results: Results, weights: Mapping[str, float]
) -> float:
    """The value with every item counted by its weight; the plain one where weights have no meaning."""
    responses = results[objective.scorer]
    values = column(responses, objective.metric)
    sums = suite.sums(objective.scorer, objective.metric, values)
    if sums is None:
        return suite.value(objective, results)
    each = np.array([weights[item] for item in responses["items"]])
    return float(sums.scale * (sums.over @ each) / (sums.under @ each))
