"""Credit: what each answer of a model is worth, from 0 to 1, whatever the metric.

For optimizers that look at single items: who answers what the others do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.suite.objectives import Objective, aimed, entering
from evomerge.suite.scorer import UNBOUNDED, Results, column
from evomerge.suite.suite import Suite

WORST, BEST = 0.25, 0.75  # of base and parents on an item, where a metric has no bounds


class Credit:
    """Worths by the measured objectives that enter the score.

    A share, as right or wrong, is its own worth, turned if less is better. Any other number, and a ratio,
    is placed between the worst and the best of base and parents on the same item, which are worth .25 and
    .75, and cut off at 0 and 1.

    Args:
        suite: says what is wanted.
        references: answers of base and parents to the whole search split.
    """

    def __init__(self, suite: Suite, references: Sequence[Results]) -> None:
        found, neither = entering(suite.objectives), aimed(suite.objectives)
        self._objectives = [o for o in found if o.name not in neither] or found
        self._ends: dict[str, dict[str, tuple[float, float]]] = {}  # of what is no share
        for objective in self._objectives:
            rows = [_numbers(objective, results) for results in references]
            known = [value for row in rows for value in row.values()]
            if not _is_share(objective, known):
                self._ends[objective.name] = {
                    item: (min(values), max(values))
                    for item in rows[0]
                    if (values := [objective.sign * row[item] for row in rows if item in row])
                }

    def of(self, results: Results) -> dict[str, dict[str, float]]:
        """Objective -> item -> worth; answers that the metric does not apply to are left out."""
        return {
            objective.name: {
                item: self._worth(objective, item, value)
                for item, value in _numbers(objective, results).items()
            }
            for objective in self._objectives
        }

    def _worth(self, objective: Objective, item: str, value: float) -> float:
        ends = self._ends.get(objective.name)
        if ends is None:
            share = min(max(value, 0.0), 1.0)
            return share if objective.maximize else 1.0 - share
        value *= objective.sign
        low, high = ends.get(item, (value, value))
        if high == low:
            return (WORST + BEST) / 2 if value == low else BEST if value > low else WORST
        return min(max(WORST + (BEST - WORST) * (value - low) / (high - low), 0.0), 1.0)


def _numbers(objective: Objective, results: Results) -> Mapping[str, float]:
    """Item -> number, of the items that have one."""
    responses = results.get(objective.scorer)
    if responses is None:
        return {}
    values = map(_number, column(responses, objective.metric))
    pairs = zip(responses["items"], values, strict=True)
    return {item: value for item, value in pairs if value is not None}


def _number(value: Any) -> float | None:
    """A number, or a pair as its ratio."""
    if isinstance(value, (bool, int, float)):
        return float(value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        over, under = map(_number, value)
        return over / under if over is not None and under else None
    return None


def _is_share(objective: Objective, values: Sequence[float]) -> bool:
    unbounded = any(factor in UNBOUNDED for factor in objective.metric.split("*"))
    return not unbounded and all(0 <= value <= 1 for value in values)
