"""TIES-Merging as its authors wrote it."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods._entrywise import Entrywise, entrywise, where
from evomerge.methods._operands import Operands
from evomerge.methods._sparse import fractions
from evomerge.methods._whole import cuts, lower_histograms, upper_histograms
from evomerge.params import Choice, PerModel, Real, Shared

AGGREGATE = ("mean", "sum", "max")


def upper(operands: Operands) -> Tensor:
    return upper_histograms(operands)


def lower(operands: Operands, totals: tuple[Tensor, ...], density: Tensor) -> Tensor:
    return lower_histograms(operands, totals[0], ranks(totals[0], density))


def norms(operands: Operands, totals: tuple[Tensor, ...], density: Tensor) -> Tensor:
    """Squared norm of what is kept of each delta [models]."""
    found = []
    for index, cut in enumerate(cuts(totals[0], totals[1], ranks(totals[0], density))):
        limits = [operands.extent(index) ** 2]
        found += operands.one(index).sums(_kept_square, [cut], 0.0, limits=limits)
    return torch.tensor(found, dtype=torch.float64)


def majority(
    operands: Operands, totals: tuple[Tensor, ...], density: Tensor, resolve: str
) -> Tensor:
    """Entries with a positive sum minus entries with a negative one [1]."""
    cut, shares = cuts(totals[0], totals[1], ranks(totals[0], density)), _shares(totals[2], resolve)
    return torch.tensor(operands.sums(_sign, cut, shares, 0.0, 1.0, limits=[1.0]))


def ranks(histograms: Tensor, density: Tensor) -> list[int]:
    """How many entries of each whole delta are kept, but for ties: one more than int(K d)."""
    sizes = [int(histogram.sum()) for histogram in histograms]
    return [min(size, int(p * size) + 1) for size, p in zip(sizes, fractions(density))]


@merge_method(
    base="required",
    elementwise=False,
    paper="https://arxiv.org/abs/2306.01708",
    surveys=(upper, lower, norms, majority),
)
def ties_original(
    operands: Operands,
    totals: tuple[Tensor, ...],
    density: Annotated[
        Float[Tensor, " models"], PerModel(Real(0.05, 1, default=0.2, valid=(0, 1)))
    ],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1))],
    resolve: Annotated[str, Shared(Choice(("mass", "normmass"), "mass"), searched=False)],
    aggregate: Annotated[str, Shared(Choice(AGGREGATE, "mean"), searched=False)],
) -> Entrywise:
    """Trim each delta over the whole model, elect a sign per entry, merge what agrees.

        kept_i = entries of delta_i that reach the (int(density_i d) + 1)-th magnitude of all d
        sign   = sign of sum_i kept_i; where that is 0 the sign that most entries elected
        merged = base + lambda mean, sum or max of the kept_i that are not 0 and have the sign

    Args:
        operands: the sources and the base.
        totals: histograms of the magnitudes, norms and the majority sign.
        density: fraction of the model's entries kept, over all tensors together.
        lambda_: scale of the merged delta.
        resolve: elect by the sum (mass), or by the sum of deltas of norm 1 (normmass).
        aggregate: what is made of the values that agree.

    Returns:
        The merge, entry by entry.

    Paper: Yadav et al. 2023, TIES-Merging; the authors' ``ties-merging``.

    Deviations: density 1 keeps everything, where the authors' code fails. Where most entries elected
    neither sign, negative values are kept at a sum of 0, as in their code.
    """
    cut = cuts(totals[0], totals[1], ranks(totals[0], density))
    most = math.copysign(1.0, float(totals[3])) if float(totals[3]) else 0.0
    arguments = (cut, _shares(totals[2], resolve), most, lambda_, 0.0, 1.0)
    return entrywise({"mean": mean, "sum": total, "max": largest}[aggregate], *arguments)


def _shares(squares: Tensor, resolve: str) -> list[float]:
    if resolve == "mass":
        return [1.0] * len(squares)
    return [1 / math.sqrt(square) if square > 0 else 0.0 for square in squares.tolist()]


def elected(deltas: Any, cut: Any, share: Any, zero: Any) -> Any:
    votes = zero
    for d, low, part in zip(deltas, cut, share):
        votes = votes + where(abs(d) >= low, d, zero) * part
    return votes


def agreeing(d: Any, low: Any, votes: Any, most: Any, zero: Any) -> Any:
    """The entry if it is kept and has the elected sign, else 0."""
    sign = where(votes == zero, most, votes)
    kept = where(abs(d) >= low, d, zero)
    return where((kept > zero) == (sign > zero), kept, zero)


def total(deltas: Any, cut: Any, share: Any, most: Any, scale: Any, zero: Any, one: Any) -> Any:
    votes = elected(deltas, cut, share, zero)
    merged = zero
    for d, low in zip(deltas, cut):
        merged = merged + agreeing(d, low, votes, most, zero)
    return merged * scale


def mean(deltas: Any, cut: Any, share: Any, most: Any, scale: Any, zero: Any, one: Any) -> Any:
    votes = elected(deltas, cut, share, zero)
    merged = zero
    count = zero
    for d, low in zip(deltas, cut):
        value = agreeing(d, low, votes, most, zero)
        merged = merged + value
        count = count + where(value == zero, zero, one)
    return merged / where(count == zero, one, count) * scale


def largest(deltas: Any, cut: Any, share: Any, most: Any, scale: Any, zero: Any, one: Any) -> Any:
    votes = elected(deltas, cut, share, zero)
    merged = zero
    for d, low in zip(deltas, cut):
        value = agreeing(d, low, votes, most, zero)
        merged = where(abs(value) > abs(merged), value, merged)
    return merged * scale


def _kept_square(deltas: Any, cut: Any, zero: Any) -> Any:
    kept = where(abs(deltas[0]) >= cut[0], deltas[0], zero)
    return (kept * kept,)


def _sign(deltas: Any, cut: Any, share: Any, zero: Any, one: Any) -> Any:
    votes = elected(deltas, cut, share, zero)
    return (where(votes > zero, one, where(votes == zero, zero, -one)),)
