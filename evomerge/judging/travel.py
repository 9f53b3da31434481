"""What each gene brought a descent: its slope times the way it went, added up step by step.

    c_i = sum_t (g_i(t) + g_i(t + 1)) / 2 (x_i(t + 1) - x_i(t)),   g the slope of the score

To first order the sum over genes is what the descent gained in the bounded stand-in that it climbed; the
exact metric may have gained more or less. A gene that another would have stood in for gets its share all the
same: it says what was done, not what had to be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.evolution.history import History
from evomerge.inference.intervals import Interval
from evomerge.params import Genome
from evomerge.suite.objectives import Objective, shares


@dataclass(frozen=True)
class Travel:
    """What genes brought, in the stand-in's score, with what its spread over the steps makes of the error.

    Attributes:
        genes: an interval each.
        steps: that it was added up over.
    """

    genes: tuple[Interval, ...]
    steps: int


def travel(history: History, objectives: Sequence[Objective], how: str) -> Travel | None:
    """Over all descents of a search; None where there were none, or of one step.

    Args:
        history: of the search.
        objectives: what it optimizes.
        how: they combine.
    """
    walked: list[tuple[str, Genome, list[float]]] = []
    for batch in history.batches:
        for candidate in batch.candidates:
            found = history.evaluations(batch.number).get(candidate.id)
            if (
                found is None
                or not found.slopes
                or found.values is None
                or candidate.genome is None
                or not history.gains
            ):
                continue
            counted = shares(objectives, how, found.values, history.references(0), history.gains)
            slope = _slope(counted, found.slopes, len(candidate.genome))
            walked.append((candidate.origin, candidate.genome, slope))
    steps = [
        [0.5 * (a + b) * (y - x) for a, b, x, y in zip(slope, after, here, there, strict=True)]
        for (origin, here, slope), (then, there, after) in itertools.pairwise(walked)
        if origin == then and len(here) == len(there)
    ]
    if len(steps) < 2:
        return None
    return Travel(tuple(map(_summed, zip(*steps, strict=True))), len(steps))


def _slope(counted: Mapping[str, float], slopes: Mapping[str, Genome], genes: int) -> list[float]:
    return [
        sum(counted.get(name, 0.0) * slope[gene] for name, slope in slopes.items())
        for gene in range(genes)
    ]


def _summed(parts: Sequence[float]) -> Interval:
    count, total = len(parts), math.fsum(parts)
    spread = math.fsum((part - total / count) ** 2 for part in parts) * count / (count - 1)
    return Interval.around(total, math.sqrt(spread))
