"""Right answers of base and parents, which stand for those that a task does not state.

They are a proxy: one way to be right out of many, and nothing is taught of an item that nobody gets right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.errors import CandidateFailed
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Results, Scorer, Shown, column
from evomerge.suite.suite import Suite

RIGHT = 0.999  # of a metric that is a share of 1


def examples(suite: Suite, scorer: str, known: Sequence[Results]) -> dict[str, str]:
    """Item -> a text that was right, by every objective of ``scorer`` that is taught.

    Args:
        suite: measures.
        scorer: one that is ``Shown`` answers.
        known: what base and parents answered, in their order.

    Returns:
        Of each item the answer of the model that does best at the first of these objectives, among those that
        are right; of equal ones the first. A metric that leaves [0, 1] does not tell what is right.
    """
    taught = [name for name, why in suite.teaching().items() if not why]
    objectives = [o for o in suite.measured if o.name in taught and o.scorer == scorer]
    asked = suite.scorers[scorer]
    assert isinstance(asked, Shown) and objectives
    order = sorted(range(len(known)), key=lambda n: -suite.value(objectives[0], known[n]))
    found: dict[str, str] = {}
    for objective in objectives:
        if not all(_is_share(asked, objective, each) for each in known):
            return {}
    for number in order:
        responses = known[number][scorer]
        values = [_values(asked, objective, known[number]) for objective in objectives]
        right = [
            all(v is not None and v >= RIGHT for v in own) for own in zip(*values, strict=True)
        ]
        texts = asked.written(responses)
        for item, is_right, text in zip(responses["items"], right, texts, strict=True):
            if is_right and text is not None:
                found.setdefault(item, text)
    return found


def _is_share(scorer: Scorer, objective: Objective, results: Results) -> bool:
    return all(v is None or 0 <= v <= 1 for v in _values(scorer, objective, results))


def _values(scorer: Scorer, objective: Objective, results: Results) -> list[float | None]:
    """The metric of each item by itself; None where it does not apply."""
    return [
        None if value is None else _alone(scorer, objective.metric, value)
        for value in column(results[objective.scorer], objective.metric)
    ]


def _alone(scorer: Scorer, metric: str, value: Any) -> float | None:
    """What the metric says of one item; None where it says nothing of one."""
    try:
        return float(scorer.aggregate(metric, [value]))
    except (CandidateFailed, ArithmeticError, LookupError, TypeError, ValueError):
        return None
