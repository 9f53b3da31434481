"""Floors with their uncertainty: by how much a model holds each, and how likely all of them.

A floor that is a share of a model's value is compared with that model item by item:

    margin = sign (value - reference - (share - 1) |reference|)

over resamples of the sources that both answered. What both answer alike then says nothing against the
floor, however few the sources are, and what is unknown of answers that are all alike is not drawn for
each model apart. How likely all floors hold is the share of resamples in which no margin is below zero,

    p = min(share, n / (n + 1)),    n sources

as n sources that agree leave one more source a chance of 1 / (n + 1) (Laplace's rule of succession).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.inference.intervals import Interval, Resampled
from evomerge.judging.evidence import Bootstrap
from evomerge.suite.objectives import Objective, Values
from evomerge.suite.scorer import Results


@dataclass(frozen=True)
class Margin:
    """What a model leaves to a floor.

    Attributes:
        objective: that has the floor.
        bound: the number that it comes to on these items.
        margin: by how much it is held, in the objective's units; below zero it is missed.
    """

    objective: Objective
    bound: float
    margin: Resampled

    @property
    def held(self) -> bool:
        return self.margin.value >= 0

    @property
    def interval(self) -> Interval:
        return self.margin.interval()


def margins(
    bootstrap: Bootstrap, results: Results, references: Mapping[str, Results]
) -> list[Margin]:
    """What a model leaves to each floor of the suite.

    Args:
        bootstrap: over the items that all of them answered.
        results: of the model.
        references: of the models that floors name.
    """
    suite = bootstrap.suite
    floored = [(o, o.floor) for o in suite.objectives if o.floor]
    if not floored:
        return []
    ours = bootstrap.values(results, "floors", paired=True)
    named = {floor.of for _, floor in floored if floor.of}
    theirs = {of: bootstrap.values(references[of], "floors", paired=True) for of in sorted(named)}
    known: dict[str, Values] = {
        of: {name: each.value for name, each in found.items()} for of, found in theirs.items()
    }
    alone = bootstrap.values(results, "floors")  # against a number: nothing to be paired with
    found = []
    for objective, floor in floored:
        name, sign, bound = objective.name, objective.sign, floor.bound(objective, known)
        own = ours[name] if floor.of else alone[name]
        bounds = np.full(len(own.draws), bound)
        if floor.of is not None and floor.share is not None:
            other = theirs[floor.of][name].draws
            bounds = other + (floor.share - 1) * np.abs(other)
        margin = Resampled(sign * (own.value - bound), sign * (own.draws - bounds), own.sources)
        found.append(Margin(objective, bound, margin))
    return found


def probability(found: list[Margin]) -> float:
    """How likely all floors hold; 1 where there are none."""
    if not found:
        return 1.0
    draws: NDArray[np.float64] = np.stack([each.margin.draws for each in found], axis=1)
    draws = draws[~np.isnan(draws).any(1)]
    if not len(draws):
        return float(all(each.held for each in found))
    # rounding is no miss: a share of equal answers is the floor itself
    size = 1e-12 * np.maximum(1.0, np.abs([each.bound for each in found]))
    sources = min(each.margin.sources for each in found)
    return min(float((draws >= -size).all(1).mean()), sources / (sources + 1))
