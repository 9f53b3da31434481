"""ComPEFT: ternary task vectors."""

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
from evomerge.methods._whole import cuts
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
        one, extent = operands.one(index), operands.extent(index)
        if magnitude == "std":
            sums = one.sums(_moments, limits=[extent, extent**2])
            found.append([float(operands.size), *sums])
        else:
            limits = [1.0, extent, extent]
            found.append(one.sums(_kept_moments, [cut], 0.0, 1.0, limits=limits))
    return torch.tensor(found, dtype=torch.float64)


@merge_method(
    base="required",
    elementwise=False,
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
        return entrywise(_kept_sum, cut, factors, 0.0)
    sizes = [_magnitude(magnitude, *row) for row in totals[2].tolist()]
    steps = [factor * size for factor, size in zip(factors, sizes, strict=True)]
    return entrywise(_ternary_sum, cut, steps, 0.0)


def _magnitude(kind: str, count: float, total: float, last: float) -> float:
    """The one magnitude of a model's entries, from its row of ``moments``."""
    if kind == "std":
        squares = last - total**2 / max(count, 1)
        return math.sqrt(max(squares, 0.0) / max(count - 1, 1))
    return (last if kind == "mean" else total) / max(count, 1)


def _kept_sum(deltas: Any, cut: Any, weight: Any, zero: Any) -> Any:
    merged = zero
    for d, low, w in zip(deltas, cut, weight):
        merged = merged + where(abs(d) >= low, d, zero) * w
    return merged


def _ternary_sum(deltas: Any, cut: Any, step: Any, zero: Any) -> Any:
    merged = zero
    for d, low, s in zip(deltas, cut, step):
        signed = where(d > zero, s, where(d < zero, -s, zero))
        merged = merged + where(abs(d) >= low, signed, zero)
    return merged


def _moments(deltas: Any) -> Any:
    return deltas[0], deltas[0] * deltas[0]


def _kept_moments(deltas: Any, cut: Any, zero: Any, one: Any) -> Any:
    d = deltas[0]
    kept = abs(d) >= cut[0]
    return where(kept, one, zero), where(kept, d, zero), where(kept, abs(d), zero)
