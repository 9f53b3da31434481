"""How much a front covers: its hypervolume over the base, in yardsticks.

Every objective that counts is turned so that more is better, taken relative to the base, and divided by
its yardstick. Then a single merge as good as the best parent at everything covers 1, and what covers
more than base and parents do together is what merging has won. The base moves with the resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.inference.hypervolume import hypervolume
from evomerge.inference.intervals import Resampled
from evomerge.judging.evidence import ByObjective
from evomerge.suite.objectives import Objective, Values

_QUICK = 48  # points times objectives, up to which every resample is worked out; of more, a tenth


def relative(
    objectives: Sequence[Objective], values: Values, base: Values, gains: Values
) -> tuple[float, ...]:
    """Values in yardsticks above the base, ``[objectives]``."""
    return tuple(o.sign * (values[o.name] - base[o.name]) / gains[o.name] for o in objectives)


def volume(
    objectives: Sequence[Objective],
    members: Sequence[ByObjective],
    base: ByObjective,
    gains: Values,
) -> Resampled:
    """The hypervolume of ``members`` over ``base``.

    Args:
        objectives: those that count.
        members: estimates over the same resamples as the base's.
        base: its estimates.
        gains: the yardsticks.
    """
    zero = (0.0,) * len(objectives)
    value = hypervolume([_point(objectives, each, base, gains) for each in members], zero)
    sources = min(each[o.name].sources for each in (*members, base) for o in objectives)
    if not members:
        return Resampled(value, np.zeros_like(base[objectives[0].name].draws), sources)
    step = 1 if len(members) * len(objectives) <= _QUICK else 10
    table = np.stack(
        [
            np.stack(
                [
                    o.sign * (each[o.name].draws - base[o.name].draws)[::step] / gains[o.name]
                    for o in objectives
                ],
                axis=1,
            )
            for each in members
        ],
        axis=1,
    )  # [draws, members, objectives]
    draws = [
        hypervolume(points.tolist(), zero) if not np.isnan(points).any() else np.nan
        for points in table
    ]
    return Resampled(value, np.array(draws), sources)


def _point(
    objectives: Sequence[Objective], ours: ByObjective, base: ByObjective, gains: Values
) -> tuple[float, ...]:
    values = [{n: each.value for n, each in part.items()} for part in (ours, base)]
    return relative(objectives, values[0], values[1], gains)
