"""Model Stock: how far to go from the base to the average, read off the angles between deltas."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float64
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise
from evomerge.methods.kernel.leaves import Entries, Leaf, Rows
from evomerge.methods.kernel.norms import gram
from evomerge.methods.kernel.operands import Operands
from evomerge.params import Choice, Flag, Shared

TILE = 1 << 14  # entries


@merge_method(base="required", paper="https://arxiv.org/abs/2403.19522", min_models=2)
def model_stock(
    operands: Operands,
    filter_wise: Annotated[bool, Shared(Flag(False))],
    clip: Annotated[bool, Shared(Flag(True), searched=False)],
    guard: Annotated[str, Shared(Choice(("relative", "absolute"), "relative"), searched=False)],
) -> Entrywise:
    """Interpolate between the base and the average of N models by the mean cosine of their deltas.

        cos    = mean_{i<j} <delta_i, delta_j> / (|delta_i| |delta_j|)
        t      = N cos / (1 + (N - 1) cos)
        merged = base + t mean_i delta_i

    Args:
        operands: the sources and the base.
        filter_wise: one ratio for each row of the last axis, rather than for the tensor.
        clip: keep t within [0, 1]; else deltas that point apart lead away from the average.
        guard: what the product of two norms is at least: 0 (a vanishing delta has cosine 0), or
            1e-6 as in mergekit (absolute), which takes small tensors back to the base.

    Returns:
        The merge, entry by entry.

    Paper: Jang et al. 2024, Model Stock: All We Need Is Just a Few Fine-Tuned Models, Eq. 3;
    mergekit ``model_stock``.

    Deviations: mergekit neither clips (``clip: false``) nor spares products of norms below 1e-6
    (``guard: absolute``). As there, t is 0 where 1 + (N - 1) cos is below 1e-6.
    """
    products = _row_gram(operands) if filter_wise else gram(operands)
    ratio = _ratio(products, 1e-6 if guard == "absolute" else 0.0)
    if clip:
        ratio = ratio.clamp(0, 1)
    return entrywise(_scaled_sum, _spread(ratio, operands), 1 / len(operands))


def _ratio(gram: Float64[Tensor, "*rows models models"], floor: float) -> Float64[Tensor, "*rows"]:
    """``t``, from the inner products of the deltas."""
    count = gram.shape[-1]
    norm = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    product = norm.unsqueeze(-1) * norm.unsqueeze(-2)
    cosine = torch.where(product > 0, gram / product.clamp(min=floor), 0.0).clamp(-1, 1)
    i, j = torch.triu_indices(count, count, 1)
    mean = cosine[..., i, j].mean(-1)
    divisor = 1 + (count - 1) * mean
    return torch.where(divisor.abs() < 1e-6, 0.0, count * mean / divisor)


def _spread(ratio: Float64[Tensor, "*rows"], operands: Operands) -> Leaf:
    """The ratios as an argument of the entry function."""
    if ratio.ndim == 0:
        return float(ratio)
    if len(ratio) == operands.rows:
        return Rows(ratio.float())
    return Entries(ratio.float().unsqueeze(1).expand(-1, operands.shape[-1]).contiguous())


def _row_gram(operands: Operands) -> Float64[Tensor, "rows models models"]:
    """Inner products of the deltas in each row of the last axis."""
    return operands.facts.get("row gram", partial(_row_products, operands))


def _row_products(operands: Operands) -> Float64[Tensor, "rows models models"]:
    width = operands.shape[-1] if operands.shape else 1
    shape = operands.size // max(width, 1), width
    count = len(operands)
    found = torch.zeros(shape[0], count, count, dtype=torch.float64, device=operands.device)
    stored = (operands.base, *operands.tensors)
    origin, *sources = (each.view(shape) for each in stored if each is not None)
    for rows, columns in _tiles(*shape):
        base = origin[rows, columns].float()
        deltas = [source[rows, columns].float() - base for source in sources]
        for i, j in itertools.combinations_with_replacement(range(count), 2):
            found[rows, i, j] += (deltas[i] * deltas[j]).sum(1, dtype=torch.float64)
    return found + found.triu(1).mT


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Tiles so small that torch adds them up on one thread, always in the same order."""
    wide = min(columns, TILE)
    high = max(1, TILE // max(wide, 1))
    for row in range(0, rows, high):
        for column in range(0, columns, max(wide, 1)):
            yield slice(row, row + high), slice(column, column + wide)


def _scaled_sum(deltas: Numbers, ratio: Number, share: Number) -> Number:
    total = 0.0
    for delta in deltas:
        total = total + delta
    return total * share * ratio
