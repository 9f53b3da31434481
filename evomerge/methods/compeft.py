"""ComPEFT: ternary task vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.modelwise import cuts
from evomerge.methods.kernel.norms import extent
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions
from evomerge.methods.ties_original import lower, ranks, upper
from evomerge.params import Choice, PerModel, Real, Shared


def moments(
    operands: Operands, totals: tuple[Tensor, ...], density: Tensor, magnitude: str
) -> Tensor | None:
    """What the magnitude of a ternary delta follows from [models, 3].

    With magnitude std the number of entries, their sum and their squares' sum; with the means the
    number of kept entries, their sum and their magnitudes' sum.
    """
    if magnitude == "kept":
        return None
    found = []
    for index, cut in enumerate(cuts(totals[0], totals[1], ranks(totals[0], density))):
        one, most = operands.one(index), extent(operands, index)
        if magnitude == "std":
            sums = one.sums(_moments, limits=[most, most**2])
            found.append([float(operands.size), *sums])
        else:
            limits = [1.0, most, most]
            found.append(one.sums(_kept_moments, cut, limits=limits))
    return torch.tensor(found, dtype=torch.float64)


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2311.13171",
    surveys=(upper, lower, moments),
)
def compeft(
    operands: Operands,
    totals: tuple[Tensor, ...],
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 5, default=1))],
    density: Annotated[
        Float[Tensor, " models"], PerModel(Real(0.05, 0.5, default=0.2, valid=(0, 1)))
    ],
    magnitude: Annotated[
        str, Shared(Choice(("std", "mean", "signed_mean", "kept"), "std"), searched=False)
    ],
) -> Entrywise:
    """Keep each delta's largest entries, give them all one magnitude, add up.

        kept_i  = entries of delta_i that reach the (int(density_i d) + 1)-th magnitude of all d
        merged  = base + sum_i weight_i std(delta_i) sign(kept_i)

    with the standard deviation over all d entries of the model (d - 1 in the divisor).

    Args:
        operands: the sources and the base.
        totals: histograms of the magnitudes, and sums over the model.
        weight: coefficient of the model's ternary delta (the paper's alpha).
        density: fraction of the model's entries kept, over all tensors together.
        magnitude: of the kept entries: the standard deviation (std), the mean of their magnitudes
            (mean) as in sparse ternary compression, the mean of the signed entries (signed_mean),
            or their own (kept).

    Returns:
        The merge, entry by entry.

    Paper: Yadav et al. 2023, ComPEFT: Compression for Communicating Parameter Efficient Updates via
    Sparsification and Quantization.

    Deviations: the paper compresses one model; here any number, added up. For sparse ternary
    compression the authors' code takes the mean of the signed entries, which nearly cancels
    (``magnitude: signed_mean``). Density 1 keeps everything, where their code returns nothing.
    """
    factors = fractions(weight)
    cut = cuts(totals[0], totals[1], ranks(totals[0], density))
    if magnitude == "kept":
        return entrywise(_kept_sum, [Trimmed(*model) for model in zip(cut, factors, strict=True)])
    sizes = [_magnitude(magnitude, *row) for row in totals[2].tolist()]
    steps = [factor * size for factor, size in zip(factors, sizes, strict=True)]
    return entrywise(_ternary_sum, [Trimmed(*model) for model in zip(cut, steps, strict=True)])


def _magnitude(kind: str, count: float, total: float, last: float) -> float:
    """The one magnitude of a model's entries, from its row of ``moments``."""
    if kind == "std":
        squares = last - total**2 / max(count, 1)
        return math.sqrt(max(squares, 0.0) / max(count - 1, 1))
    return (last if kind == "mean" else total) / max(count, 1)


class Trimmed(NamedTuple):
    """What is kept of a model's delta, and what it, or its sign, is multiplied by."""

    low: Number
    factor: Number


def _kept_sum(deltas: Numbers, models: Sequence[Trimmed]) -> Number:
    merged = 0.0
    for d, m in zip(deltas, models):
        merged = merged + where(abs(d) >= m.low, d, 0.0) * m.factor
    return merged


def _ternary_sum(deltas: Numbers, models: Sequence[Trimmed]) -> Number:
    merged = 0.0
    for d, m in zip(deltas, models):
        signed = where(d > 0.0, m.factor, where(d < 0.0, -m.factor, 0.0))
        merged = merged + where(abs(d) >= m.low, signed, 0.0)
    return merged


def _moments(deltas: Numbers) -> Numbers:
    return deltas[0], deltas[0] * deltas[0]


def _kept_moments(deltas: Numbers, cut: Number) -> Numbers:
    d = deltas[0]
    kept = abs(d) >= cut
    return where(kept, 1.0, 0.0), where(kept, d, 0.0), where(kept, abs(d), 0.0)
