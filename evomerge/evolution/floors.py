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
from evomerge.params import Genome, Mixture
from evomerge.suite.objectives import Objective, Values

LEVELS = (0.8, 0.95)  # of the chance that all floors hold
EACH = 2  # candidates of the shortlist for each level
PARTS = (-0.08, -0.04, 0.04, 0.08, 0.12)  # of the way from a recommendation to a floor's model


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


def pulled(genome: Genome, mixtures: Sequence[Mixture], model: str, part: float) -> Genome:
    """``genome`` with its weights of sources moved a ``part`` of the way to those of ``model`` alone.

    A search ends about where its floors begin to be missed. On the way to the model that a floor names it is held
    ever more surely; the other way there may be more to be had of all else.
    """
    moved = list(genome)
    for mixture in mixtures:
        ends = mixture.genes([float(source == model) for source in mixture.sources])
        for axis, end in zip(mixture.axes, ends, strict=True):
            moved[axis] = min(max(moved[axis] + part * (end - moved[axis]), 0.0), 1.0)
    return tuple(moved)
