"""How likely a candidate holds its floors, by what the search has seen of it.

A candidate's values are estimates with a standard error e, its floors' bounds are exact on the search
items, so per floor with margin m the chance is that of a normal law,

    p = Phi(m / e),

and over several floors their product. It only says who is worth a place on the shortlist: a winner's
floors are confirmed on other items (``judging.floors``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

from evomerge.evolution.archive import Elite
from evomerge.evolution.archive.best import best
from evomerge.suite.objectives import Objective, Values

LEVELS = (0.8, 0.95)  # of the chance that all floors hold
EACH = 2  # candidates of the shortlist for each level


def chance(
    objectives: Sequence[Objective],
    values: Values,
    errors: Mapping[str, float | None],
    references: Mapping[str, Values],
) -> float:
    """How likely all floors of ``objectives`` hold."""
    normal = NormalDist()
    found = []
    for objective in objectives:
        if objective.floor:
            bound = objective.floor.bound(objective, references)
            margin, error = (
                objective.sign * (values[objective.name] - bound),
                errors.get(objective.name),
            )
            found.append(normal.cdf(margin / error) if error else float(margin >= 0))
    return math.prod(found)


def safe(elites: Sequence[Elite], chance_of: Callable[[Elite], float]) -> list[Elite]:
    """The best few by score among those that likely hold their floors, for each level.

    The best by score alone sit on the floor, where half of them miss it.
    """
    chances = [(elite, chance_of(elite)) for elite in elites]
    return [
        elite
        for level in LEVELS
        for elite in best([e for e, likely in chances if likely >= level], EACH)
    ]
