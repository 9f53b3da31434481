"""What each gene brought a descent: its slope times the way it went, added up step by step.

    c_i = sum_t (g_i(t) + g_i(t + 1)) / 2 (x_i(t + 1) - x_i(t)),   g the slope of the score

To first order the sum over genes is what the descent gained in the bounded stand-in that it climbed; the
exact metric may have gained more or less. A gene that another would have stood in for gets its share all the
same: it says what was done, not what had to be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Stop:
    """Where a descent was, and the slope of the score there, ``[genes]`` both; ``descent``: its name."""

    descent: str
    genome: Genome
    slope: Genome


def travel(history: History, objectives: Sequence[Objective], how: str) -> Travel | None:
    """Over all descents of a search; None where there were none, or of one step.

    Args:
        history: of the search.
        objectives: what it optimizes.
        how: they combine.
    """
    walked: list[Stop] = []
    for batch in history.batches:
        for candidate in batch.candidates:
            found, genome = history.evaluations(batch.number).get(candidate.id), candidate.genome
            if found is None or found.values is None or genome is None or not found.slopes:
                continue
            counted = shares(objectives, how, found.values, history.references(0), history.gains)
            slope = [
                sum(counted.get(name, 0.0) * each[gene] for name, each in found.slopes.items())
                for gene in range(len(genome))
            ]
            walked.append(Stop(candidate.origin, genome, tuple(slope)))
    return along(walked)


def along(walked: Sequence[Stop]) -> Travel | None:
    """Over the steps between stops of the same descent that follow each other; None of fewer than two."""
    steps = [
        [
            0.5 * (before + after) * (there - here)
            for before, after, here, there in zip(
                one.slope, next.slope, one.genome, next.genome, strict=True
            )
        ]
        for one, next in itertools.pairwise(walked)
        if one.descent == next.descent
    ]
    if len(steps) < 2:
        return None
    return Travel(tuple(map(_summed, zip(*steps, strict=True))), len(steps))


def _summed(parts: Sequence[float]) -> Interval:
    count, total = len(parts), math.fsum(parts)
    spread = math.fsum((part - total / count) ** 2 for part in parts) * count / (count - 1)
    return Interval.around(total, math.sqrt(spread))
