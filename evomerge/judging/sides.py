"""Item by item: what one model gets right that another does not, and the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.errors import InputError
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import UNBOUNDED, Results, column


@dataclass(frozen=True)
class Sides:
    """Items of an objective by who gets them right.

    Attributes:
        both, ours, theirs, neither: items, in order.
    """

    both: tuple[str, ...]
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    neither: tuple[str, ...]


def sides(objective: Objective, ours: Results, theirs: Results) -> Sides | None:
    """By answers to the same items; None where answers are not just right or wrong.

    Items without a value of either are left out.
    """
    names = set(objective.metric.split("*"))
    if objective.of or names & set(UNBOUNDED):
        return None
    own, other = (_right(objective, results) for results in (ours, theirs))
    if own is None or other is None:
        return None
    items = ours[objective.scorer]["items"]
    found: dict[tuple[bool, bool], list[str]] = {}
    for item, a, b in zip(items, own, other, strict=True):
        if a is not None and b is not None:
            found.setdefault((a, b), []).append(item)
    order = ((True, True), (True, False), (False, True), (False, False))
    return Sides(*(tuple(found.get(key, ())) for key in order))


def _right(objective: Objective, results: Results) -> Sequence[bool | None] | None:
    """Whether each answer is right; None if they are not just right or wrong."""
    try:
        values = column(results[objective.scorer], objective.metric)
    except (InputError, LookupError, TypeError):
        return None
    if not all(value is None or value in (0, 1) for value in values):
        return None
    good = 1 if objective.maximize else 0
    return [None if value is None else value == good for value in values]
