"""Archives: what is remembered of evaluations. Each is a fold, rebuilt from the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.suite.objectives import Objective, Score, Values


@dataclass(frozen=True)
class Elite:
    """A candidate scored in a batch."""

    candidate: int
    batch: int
    score: Score
    values: Values


def best(elites: Sequence[Elite], count: int = 1) -> list[Elite]:
    """The ``count`` best by score, feasible ones first; among equals the earlier candidate."""
    ranked = sorted(elites, key=lambda e: (not e.score.rank[0], -e.score.rank[1], e.candidate))
    return ranked[:count]


def pareto_front(elites: Sequence[Elite], objectives: Sequence[Objective]) -> list[Elite]:
    """The elites that no other beats or equals in every objective while beating it in one."""

    def signed(values: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(o.sign * values[o.name] for o in objectives)

    points = [(elite, signed(elite.values)) for elite in elites if elite.score.feasible]
    return [
        elite
        for elite, point in points
        if not any(
            all(a >= b for a, b in zip(other, point, strict=True)) and other != point
            for _, other in points
        )
    ]


def knees(elites: Sequence[Elite], objectives: Sequence[Objective], count: int = 3) -> list[Elite]:
    """The knee of the Pareto front, then its best in each objective; at most ``count``.

    The knee has the largest sum of objectives, each scaled to 0..1 over the front.
    """
    front = pareto_front(elites, objectives)
    if not front:
        return []
    values = [[o.sign * elite.values[o.name] for o in objectives] for elite in front]
    spans = [(min(column), max(column)) for column in zip(*values, strict=True)]
    scaled = [
        [
            (v - low) / (high - low) if high > low else 0.0
            for v, (low, high) in zip(row, spans, strict=True)
        ]
        for row in values
    ]
    sums = [sum(row) for row in scaled]
    tops = [
        max(range(len(front)), key=lambda at: (column[at], sums[at]))
        for column in (sums, *zip(*scaled, strict=True))
    ]
    return [front[at] for at in list(dict.fromkeys(tops))[:count]]
