"""Archives: what is remembered of evaluations. Each is a fold, rebuilt from the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.fitness.objectives import Objective, Score, Values


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
