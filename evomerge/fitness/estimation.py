"""Objective values on the whole search split, from answers to all of it or to a sample.

Base, parents and known recipes answer all of it. Their answers tell how items hang together, and
the suite's estimator turns a candidate's answers to a sample into the value that all items would
give, with a standard error. What can be estimated:

* a mean of numbers;
* a ratio of sums of pairs, as bits per byte, where the second of each pair is known beforehand.

Any other objective keeps its plain value on the sample, and no error is known of it.

With anchors the sample is the anchors, always, and the two kinds above are weighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.fitness import Responses, column, estimators
from evomerge.fitness.objectives import Objective, Values
from evomerge.fitness.suite import Results, Suite

Errors = Mapping[str, float | None]  # standard errors by objective; 0 is exact, None is unknown


@dataclass(frozen=True)
class _Sums:
    """A metric as a ratio of sums: ``scale * sum(over) / sum(under)``, on the items that have values.

    ``over`` has shape ``[models, items]``, ``under`` is ``[items]``: ones for a mean.
    """

    items: tuple[int, ...]
    over: NDArray[np.float64]
    under: NDArray[np.float64]
    scale: float


class Estimation:
    """Values on the search split.

    Args:
        suite: measures.
        archive: responses of some models to the whole search split; without them only whole
            answers, or anchors, have values.
    """

    def __init__(self, suite: Suite, archive: Sequence[Results] = ()) -> None:
        self._suite = suite
        fitted = {o.name: _Fitted.of(suite, o, archive) for o in suite.measured} if archive else {}
        self._fitted = {name: found for name, found in fitted.items() if found}

    def values(self, results: Results) -> tuple[dict[str, float], dict[str, float | None]]:
        """Values and standard errors of all objectives.

        Raises:
            NonFinite: a value is not finite.
        """
        values, errors = {}, {}
        for objective in self._suite.measured:
            values[objective.name], errors[objective.name] = self._value(objective, results)
        return self._suite.with_derived(values), self._with_derived(values, errors)

    def _value(self, objective: Objective, results: Results) -> tuple[float, float | None]:
        responses, suite = results[objective.scorer], self._suite
        if weights := suite.spec.anchors.get(objective.scorer):
            return _weighted(suite, objective, results, weights), None
        plain = suite.value(objective, results)  # may fail, whatever an estimate would say
        if len(responses["items"]) == len(suite.splits["search"][objective.scorer]):
            return plain, 0.0
        fitted = self._fitted.get(objective.name)
        if fitted is None:
            return plain, None
        return fitted.estimate(responses, objective.metric) or (plain, None)

    def _with_derived(self, values: Mapping[str, float], errors: Errors) -> dict[str, float | None]:
        """Errors of all objectives: to first order, as if measured ones were independent."""
        return {
            o.name: spread(o.derive, values, {name: errors[name] for name in o.of})
            if o.of
            else errors[o.name]
            for o in self._suite.objectives
        }


def spread(function: Callable[[Values], float], values: Values, errors: Errors) -> float | None:
    """The standard error of a function of independent values, to first order; None if any is unknown."""
    total = 0.0
    for name, error in errors.items():
        if error is None:
            return None
        high, low = (function({**values, name: values[name] + e}) for e in (error, -error))
        total += ((high - low) / 2) ** 2
    return math.sqrt(total)


@dataclass(frozen=True)
class _Fitted:
    """An estimator fitted to the archive's answers for one objective."""

    fitted: estimators.Fitted
    position: Mapping[str, int]  # item -> its column in the archive
    without: frozenset[str]  # items that the metric does not apply to
    under: NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, suite: Suite, objective: Objective, archive: Sequence[Results]) -> _Fitted | None:
        """None if the objective is neither a mean nor a ratio."""
        name = objective.scorer
        columns = [column(results[name], objective.metric) for results in archive]
        sums = _sums(suite, objective, columns)
        if sums is None:
            return None
        ids = archive[0][name]["items"]
        labels = [suite.stratum_of[name][ids[at]] for at in sums.items]
        codes = {label: code for code, label in enumerate(sorted(set(labels)))}
        strata = np.array([codes[label] for label in labels])
        margins = [_margins(results[name], sums.items) for results in archive]
        rows = [row for row in margins if row is not None]
        whole = np.stack(rows) if len(rows) == len(archive) else None
        known = estimators.Known(sums.over, strata, whole)
        position = {ids[at]: number for number, at in enumerate(sums.items)}
        fitted = _estimator(suite.spec.estimator, sums.over).fit(known)
        return cls(fitted, position, frozenset(ids) - set(position), sums.under, sums.scale)

    def estimate(self, responses: Responses, metric: str) -> tuple[float, float] | None:
        """Value and error from a sample; None if the metric has no value where the archive's has."""
        values = column(responses, metric)
        pairs = list(zip(responses["items"], values, strict=True))
        if any((value is None) != (item in self.without) for item, value in pairs):
            return None
        rows = [row for row, value in enumerate(values) if value is not None]
        at = np.array([self.position[responses["items"][row]] for row in rows])
        numbers = np.array([values[row] for row in rows], np.float64)
        if numbers.ndim == 2:
            if not np.array_equal(numbers[:, 1], self.under[at]):
                return None
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
    sums = _sums(suite, objective, [column(responses, objective.metric)])
    if sums is None:
        return suite.value(objective, results)
    each = np.array([weights[responses["items"][at]] for at in sums.items])
    return float(sums.scale * (sums.over[0] @ each) / (sums.under @ each))


def _sums(suite: Suite, objective: Objective, columns: Sequence[Sequence[Any]]) -> _Sums | None:
    """The metric as a ratio of sums, if it is one in the ``columns`` of all models, by trial."""
    items = tuple(at for at, value in enumerate(columns[0]) if value is not None)
    chosen = [[values[at] for at in items] for values in columns]
    same = all(
        (value is None) == (first is None)
        for values in columns
        for value, first in zip(values, columns[0], strict=True)
    )
    kinds = {_kind(value) for values in chosen for value in values}
    if not same or kinds not in ({"number"}, {"pair"}):
        return None
    numbers = np.array(chosen, np.float64)
    over, under = numbers, np.ones(len(items))
    if numbers.ndim == 3:
        over, under = numbers[:, :, 0], numbers[0, :, 1]
        if (numbers[:, :, 1] != under).any() or not under.all():
            return None
    scorer, scale = suite.scorers[objective.scorer], None if numbers.ndim == 3 else 1.0
    for end in (len(items), (len(items) + 1) // 2):
        for values, top in zip(chosen, over, strict=True):
            ratio = float(top[:end].sum() / under[:end].sum())
            value = scorer.aggregate(objective.metric, values[:end])
            if scale is None and ratio:
                scale = value / ratio
            if not math.isclose(value, (scale or 1.0) * ratio, rel_tol=1e-9, abs_tol=1e-12):
                return None
    return _Sums(items, over, under, 1.0 if scale is None else scale)


def _kind(value: Any) -> str:
    if isinstance(value, (int, float)):
        return "number"
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return "pair" if pair and {_kind(part) for part in value} == {"number"} else "other"
