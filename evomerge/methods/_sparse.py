"""Sparsify each delta, then blend them: the frame that TIES, DARE, DELLA and Breadcrumbs share.

An entry of a delta survives if its magnitude lies in a band and its draw below a probability, which
may grow with the magnitude's rank. Survivors are rescaled, weighted, and added up, all of them or
those that agree with an elected sign. A method is a choice of bands and probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evomerge.methods._entrywise import Cut, Entries, Entrywise, Leaf, entrywise, where
from evomerge.methods._operands import EVERYTHING, NOTHING, Operands
from evomerge.params import Choice, PerModel, Real, Shared

WEIGHT = PerModel(Real(0, 2, default=1))
LAMBDA = Shared(Real(0, 2, default=1), searched=False)


def normalize_flag(default: bool) -> Shared:
    """``normalize`` of methods that elect a sign."""
    return Shared(Choice((True, False, "signed"), default), searched=False)


def rescale_flag(default: bool, *more: str) -> Shared:
    """``rescale`` of sparsified deltas."""
    return Shared(Choice((True, False, *more), default), searched=False)


@dataclass(frozen=True)
class Survivors:
    """Which entries of each delta survive; one value per model.

    Attributes:
        low: keeps what is large enough.
        high: removes what is too large.
        draws: uniforms of the entries.
        probability: an entry survives where its draw is below ``probability + rank step``.
        ranks: of the entries' magnitudes.
        step: see ``probability``.
        factor: what survivors are multiplied by.
    """

    low: Sequence[Cut]
    high: Sequence[Cut]
    draws: Sequence[Leaf]
    probability: Sequence[float]
    ranks: Sequence[Leaf]
    step: Sequence[float]
    factor: Sequence[Leaf] = field(default=())

    def of(self, index: int) -> tuple[list[Leaf], ...]:
        """The same of one model, without the factor."""
        every: tuple[Sequence[Leaf], ...] = (
            self.low,
            self.high,
            self.draws,
            self.probability,
            self.ranks,
            self.step,
        )
        return tuple([values[index]] for values in every)


def band(low: Sequence[Cut], high: Sequence[Cut] | None = None) -> Survivors:
    """Entries with a magnitude between two cuts."""
    zeros, ones = [0.0] * len(low), [1.0] * len(low)
    return Survivors(low, high or [NOTHING] * len(low), zeros, ones, zeros, zeros, ones)


def within(masks: Sequence[Tensor]) -> Survivors:
    """Entries where a mask of their model is true."""
    zeros, count = [0.0] * len(masks), len(masks)
    outside = [Entries((~mask).to(torch.uint8)) for mask in masks]
    return Survivors(
        [EVERYTHING] * count, [NOTHING] * count, outside, [0.5] * count, zeros, zeros, [1.0] * count
    )


def drawn(
    operands: Operands,
    probability: Sequence[float],
    ranks: Sequence[Leaf] | None = None,
    step: Sequence[float] | None = None,
) -> Survivors:
    """Entries at random; those of a model with probability 0 or 1 need no draw."""
    count = len(operands)
    step = step or [0.0] * count
    certain = [p in (0.0, 1.0) and s == 0.0 for p, s in zip(probability, step, strict=True)]
    uniforms = operands.uniforms()
    return Survivors(
        low=[EVERYTHING] * count,
        high=[NOTHING] * count,
        draws=[0.0 if sure else u for sure, u in zip(certain, uniforms, strict=True)],
        probability=probability,
        ranks=ranks or [0.0] * count,
        step=step,
        factor=[1.0] * count,
    )


def restored(operands: Operands, survivors: Survivors) -> list[float]:
    """Per model the factor that brings survivors back to the L1 norm of the whole delta.

    1 where less than 1e-7 of the norm survived, which no factor brings back.
    """
    factors = []
    for index in range(len(operands)):
        kept, whole = survived(operands, survivors, index), operands.mass(index)
        factors.append(whole / kept if kept > max(1e-7 * whole, 0.0) else 1.0)
    return factors


def survived(operands: Operands, survivors: Survivors, index: int) -> float:
    """The L1 norm of a delta's survivors."""
    low, high, draws, _, _, step = (values[0] for values in survivors.of(index))
    probability = survivors.probability[index]
    if low is EVERYTHING and high is NOTHING and step == 0.0:
        if probability in (0.0, 1.0) and draws == 0.0:
            return operands.mass(index) * float(probability)
        known = operands.drawn_mass(index, draws, float(probability))
        if known is not None:
            return known
    limits = [operands.extent(index)]
    one = operands.one(index)
    return one.sums(_surviving_magnitude, *survivors.of(index), 0.0, limits=limits)[0]


def blend(
    survivors: Survivors,
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
    s = survivors
    factors = s.factor
    coefficients = [float(w) for w in weight]
    arguments = (s.low, s.high, s.draws, s.probability, s.ranks, s.step, factors, coefficients)
    if not elect:
        return entrywise(summed, *arguments, scale / weight_total(weight, bool(normalize)), 0.0)
    if not normalize:
        return entrywise(elected_sum, *arguments, scale, 0.0)
    shares = coefficients if normalize == "signed" else [abs(w) for w in coefficients]
    return entrywise(elected_mean, *arguments, shares, scale, 0.0, 1.0)


def weight_total(weight: Tensor, normalize: bool) -> float:
    """The divisor of a normalised sum: the weights' sum, or 1 where that vanishes."""
    total = float(weight.sum())
    return total if normalize and abs(total) >= 1e-8 else 1.0


# -- entry functions -----------------------------------------------------------------------------


def weighted(values: Any, weight: Any, scale: Any, zero: Any) -> Any:
    """The weighted sum, scaled."""
    total = zero
    for value, factor in zip(values, weight):
        total = total + value * factor
    return total * scale


def survivor(d: Any, low: Any, high: Any, u: Any, p: Any, rank: Any, step: Any, zero: Any) -> Any:
    """The entry, or 0."""
    size = abs(d)
    kept = where(size >= low, d, zero)
    kept = where(size >= high, zero, kept)
    return where(u < p + rank * step, kept, zero)


def votes(
    deltas: Any, low: Any, high: Any, u: Any, p: Any, rank: Any, step: Any,
    factor: Any, weight: Any, zero: Any,
) -> Any:  # fmt: skip
    """The weighted sum of the survivors, whose sign is the elected one."""
    total = zero
    for d, lo, hi, x, q, r, s, f, w in zip(deltas, low, high, u, p, rank, step, factor, weight):
        total = total + survivor(d, lo, hi, x, q, r, s, zero) * f * w
    return total


def summed(
    deltas: Any, low: Any, high: Any, u: Any, p: Any, rank: Any, step: Any,
    factor: Any, weight: Any, scale: Any, zero: Any,
) -> Any:  # fmt: skip
    return votes(deltas, low, high, u, p, rank, step, factor, weight, zero) * scale


def elected_sum(
    deltas: Any, low: Any, high: Any, u: Any, p: Any, rank: Any, step: Any,
    factor: Any, weight: Any, scale: Any, zero: Any,
) -> Any:  # fmt: skip
    positive = votes(deltas, low, high, u, p, rank, step, factor, weight, zero) >= zero
    merged = zero
    for d, lo, hi, x, q, r, s, f, w in zip(deltas, low, high, u, p, rank, step, factor, weight):
        value = survivor(d, lo, hi, x, q, r, s, zero) * f * w
        merged = merged + where((value > zero) == positive, value, zero)
    return merged * scale


def elected_mean(
    deltas: Any, low: Any, high: Any, u: Any, p: Any, rank: Any, step: Any,
    factor: Any, weight: Any, share: Any, scale: Any, zero: Any, one: Any,
) -> Any:  # fmt: skip
    positive = votes(deltas, low, high, u, p, rank, step, factor, weight, zero) >= zero
    merged = zero
    divisor = zero
    for d, lo, hi, x, q, r, s, f, w, part in zip(
        deltas, low, high, u, p, rank, step, factor, weight, share
    ):
        value = survivor(d, lo, hi, x, q, r, s, zero) * f * w
        value = where((value > zero) == positive, value, zero)
        merged = merged + value
        divisor = divisor + where(value == zero, zero, part)
    return merged / where(divisor == zero, one, divisor) * scale


def _surviving_magnitude(
    deltas: Any, low: Any, high: Any, u: Any, p: Any, rank: Any, step: Any, zero: Any
) -> Any:
    kept = survivor(deltas[0], low[0], high[0], u[0], p[0], rank[0], step[0], zero)
    return (abs(kept),)


def fractions(values: Tensor) -> list[float]:
    """A per-model parameter as Python numbers."""
    return [float(value) for value in values.to(torch.float64)]
