"""TIES-Merging as its authors wrote it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.modelwise import cuts, lower_histograms, upper_histograms
from evomerge.methods.kernel.norms import extent
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions
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
        limits = [extent(operands, index) ** 2]
        found += operands.one(index).sums(_kept_square, cut, limits=limits)
    return torch.tensor(found, dtype=torch.float64)


def majority(
    operands: Operands, totals: tuple[Tensor, ...], density: Tensor, resolve: str
) -> Tensor:
    """Entries with a positive sum minus entries with a negative one [1]."""
    models = _trimmed(totals, density, resolve)
    return torch.tensor(operands.sums(_sign, models, limits=[1.0]))


def ranks(histograms: Tensor, density: Tensor) -> list[int]:
    """How many entries of each whole delta are kept, but for ties: one more than int(K d)."""
    sizes = [int(histogram.sum()) for histogram in histograms]
    return [min(size, int(p * size) + 1) for size, p in zip(sizes, fractions(density))]


@merge_method(
    base="required",
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
    most = math.copysign(1.0, float(totals[3])) if float(totals[3]) else 0.0
    entry = {"mean": mean, "sum": total, "max": largest}[aggregate]
    return entrywise(entry, _trimmed(totals, density, resolve), most, lambda_)


class Trimmed(NamedTuple):
    """One model: the cut that keeps its entries, and what they count in the election."""

    low: Number
    share: Number


def _trimmed(totals: tuple[Tensor, ...], density: Tensor, resolve: str) -> list[Trimmed]:
    kept = cuts(totals[0], totals[1], ranks(totals[0], density))
    return [Trimmed(*model) for model in zip(kept, _shares(totals[2], resolve), strict=True)]


def _shares(squares: Tensor, resolve: str) -> list[float]:
    if resolve == "mass":
        return [1.0] * len(squares)
    return [1 / math.sqrt(square) if square > 0 else 0.0 for square in squares.tolist()]


# -- entry functions -----------------------------------------------------------------------------


def elected(deltas: Numbers, models: Sequence[Trimmed]) -> Number:
    votes = 0.0
    for d, m in zip(deltas, models):
        votes = votes + where(abs(d) >= m.low, d, 0.0) * m.share
    return votes


def agreeing(d: Number, model: Trimmed, votes: Number, most: Number) -> Number:
    """The entry if it is kept and has the elected sign, else 0."""
    sign = where(votes == 0.0, most, votes)
    kept = where(abs(d) >= model.low, d, 0.0)
    return where((kept > 0.0) == (sign > 0.0), kept, 0.0)


def total(deltas: Numbers, models: Sequence[Trimmed], most: Number, scale: Number) -> Number:
    votes = elected(deltas, models)
    merged = 0.0
    for d, m in zip(deltas, models):
        merged = merged + agreeing(d, m, votes, most)
    return merged * scale


def mean(deltas: Numbers, models: Sequence[Trimmed], most: Number, scale: Number) -> Number:
    votes = elected(deltas, models)
    merged = 0.0
    count = 0.0
    for d, m in zip(deltas, models):
        value = agreeing(d, m, votes, most)
        merged = merged + value
        count = count + where(value == 0.0, 0.0, 1.0)
    return merged / where(count == 0.0, 1.0, count) * scale


def largest(deltas: Numbers, models: Sequence[Trimmed], most: Number, scale: Number) -> Number:
    votes = elected(deltas, models)
    merged = 0.0
    for d, m in zip(deltas, models):
        value = agreeing(d, m, votes, most)
        merged = where(abs(value) > abs(merged), value, merged)
    return merged * scale


def _kept_square(deltas: Numbers, cut: Number) -> Numbers:
    kept = where(abs(deltas[0]) >= cut, deltas[0], 0.0)
    return (kept * kept,)


def _sign(deltas: Numbers, models: Sequence[Trimmed]) -> Numbers:
    votes = elected(deltas, models)
    return (where(votes > 0.0, 1.0, where(votes == 0.0, 0.0, -1.0)),)
