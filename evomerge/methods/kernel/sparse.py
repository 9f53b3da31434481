"""Sparsify each delta, then blend them: the frame that TIES, DARE, DELLA and Breadcrumbs share.

An entry of a delta survives if its magnitude lies in a band and its draw below a probability, which
may grow with the magnitude's rank. Survivors are rescaled, weighted, and added up, all of them or
those that agree with an elected sign. A method is a choice of bands and probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.leaves import EVERYTHING, NOTHING, Cut, Entries, Leaf
from evomerge.methods.kernel.norms import drawn_mass, extent, mass
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import weight_total
from evomerge.params import Choice, PerModel, Real, Shared

WEIGHT = PerModel(Real(0, 2, default=1))
LAMBDA = Shared(Real(0, 2, default=1), searched=False)


def normalize_flag(default: bool) -> Shared:
    """``normalize`` of methods that elect a sign."""
    return Shared(Choice((True, False, "signed"), default), searched=False)


def rescale_flag(default: bool, *more: str) -> Shared:
    """``rescale`` of sparsified deltas."""
    return Shared(Choice((True, False, *more), default), searched=False)


class Survivor(NamedTuple):
    """Which entries of one delta survive, and what becomes of them.

    Attributes:
        low: keeps what is large enough.
        high: removes what is too large.
        draw: uniforms of the entries.
        probability: an entry survives where its draw is below ``probability + rank step``.
        rank: of the entries' magnitudes.
        step: see ``probability``.
        factor: what survivors are multiplied by.
        weight: coefficient of the model.
        share: what the model adds to the divisor where an entry counts.
    """

    low: Number = EVERYTHING
    high: Number = NOTHING
    draw: Number = 0.0
    probability: Number = 1.0
    rank: Number = 0.0
    step: Number = 0.0
    factor: Number = 1.0
    weight: Number = 1.0
    share: Number = 1.0


def band(low: Sequence[Cut], high: Sequence[Cut] | None = None) -> list[Survivor]:
    """Entries with a magnitude between two cuts."""
    tops = high or [NOTHING] * len(low)
    return [Survivor(*ends) for ends in zip(low, tops, strict=True)]


def within(masks: Sequence[Tensor]) -> list[Survivor]:
    """Entries where a mask of their model is true."""
    return [Survivor(draw=Entries((~mask).to(torch.uint8)), probability=0.5) for mask in masks]


def drawn(
    operands: Operands,
    probability: Sequence[float],
    ranks: Sequence[Leaf] | None = None,
    step: Sequence[float] | None = None,
) -> list[Survivor]:
    """Entries at random; those of a model with probability 0 or 1 need no draw."""
    count = len(operands)
    each = zip(
        operands.uniforms(), probability, ranks or [0.0] * count, step or [0.0] * count, strict=True
    )
    return [
        Survivor(
            draw=0.0 if p in (0.0, 1.0) and rise == 0.0 else uniforms,
            probability=p,
            rank=rank,
            step=rise,
        )
        for uniforms, p, rank, rise in each
    ]


def rescaled(survivors: Sequence[Survivor], factors: Sequence[Leaf]) -> list[Survivor]:
    """The survivors, multiplied by a factor of their model."""
    return [one._replace(factor=f) for one, f in zip(survivors, factors, strict=True)]


def restored(operands: Operands, survivors: Sequence[Survivor]) -> list[Survivor]:
    """The survivors, brought back to the L1 norm of the whole delta.

    Not where less than 1e-7 of the norm survived, which no factor brings back.
    """
    factors: list[Leaf] = []
    for index, one in enumerate(survivors):
        kept, whole = survived(operands, one, index), mass(operands, index)
        factors.append(whole / kept if kept > max(1e-7 * whole, 0.0) else 1.0)
    return rescaled(survivors, factors)


def survived(operands: Operands, survivor: Survivor, index: int) -> float:
    """The L1 norm of a delta's survivors."""
    probability = survivor.probability
    if survivor.low is EVERYTHING and survivor.high is NOTHING and survivor.step == 0.0:
        if probability in (0.0, 1.0) and survivor.draw == 0.0:
            return mass(operands, index) * float(probability)
        known = drawn_mass(operands, index, survivor.draw, float(probability))
        if known is not None:
            return known
    limits = [extent(operands, index)]
    return operands.one(index).sums(_surviving_magnitude, survivor, limits=limits)[0]


def blend(
    survivors: Sequence[Survivor],
    weight: Tensor,
    *,
    scale: float,
    elect: bool,
    normalize: bool | str,
) -> Entrywise:
    """The merge of the survivors.

    Args:
        survivors: what is left of each delta.
        weight: coefficients [models].
        scale: of the merged delta.
        elect: add up only those that have, weighted, the sign of the weighted sum (0 is positive).
        normalize: divide by the weights of what was added up: their magnitudes (True) or the
            weights as they are ("signed"); by nothing where that is 0. Without election all weights
            count, wherever an entry survived.
    """
    models = [
        one._replace(weight=float(w), share=float(w) if normalize == "signed" else abs(float(w)))
        for one, w in zip(survivors, weight, strict=True)
    ]
    if not elect:
        return entrywise(summed, models, scale / weight_total(weight, bool(normalize)))
    return entrywise(elected_mean if normalize else elected_sum, models, scale)


# -- entry functions -----------------------------------------------------------------------------


def surviving(d: Number, model: Survivor) -> Number:
    """The entry, or 0."""
    size = abs(d)
    kept = where(size >= model.low, d, 0.0)
    kept = where(size >= model.high, 0.0, kept)
    return where(model.draw < model.probability + model.rank * model.step, kept, 0.0)


def votes(deltas: Numbers, models: Sequence[Survivor]) -> Number:
    """The weighted sum of the survivors, whose sign is the elected one."""
    total = 0.0
    for d, m in zip(deltas, models):
        total = total + surviving(d, m) * m.factor * m.weight
    return total


def summed(deltas: Numbers, models: Sequence[Survivor], scale: Number) -> Number:
    return votes(deltas, models) * scale


def elected_sum(deltas: Numbers, models: Sequence[Survivor], scale: Number) -> Number:
    positive = votes(deltas, models) >= 0.0
    merged = 0.0
    for d, m in zip(deltas, models):
        value = surviving(d, m) * m.factor * m.weight
        merged = merged + where((value > 0.0) == positive, value, 0.0)
    return merged * scale


def elected_mean(deltas: Numbers, models: Sequence[Survivor], scale: Number) -> Number:
    positive = votes(deltas, models) >= 0.0
    merged = 0.0
    divisor = 0.0
    for d, m in zip(deltas, models):
        value = surviving(d, m) * m.factor * m.weight
        value = where((value > 0.0) == positive, value, 0.0)
        merged = merged + value
        divisor = divisor + where(value == 0.0, 0.0, m.share)
    return merged / where(divisor == 0.0, 1.0, divisor) * scale


def _surviving_magnitude(deltas: Numbers, model: Survivor) -> Numbers:
    return (abs(surviving(deltas[0], model)),)
