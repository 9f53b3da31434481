"""Lengths and angles of tensors: all that spherical methods need of them, in one pass."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from evomerge.methods.kernel.operands import Operands

BLOCK = 1 << 16  # entries of a model taken at a time: in float64 they still fit the cache


def origin(operands: Operands) -> Literal["deltas", "tensors"]:
    """What angles are between: sources minus base, or the sources where there is no base."""
    return "tensors" if operands.base is None else "deltas"


def norms_and_cosines(
    operands: Operands, axis: int | None = None
) -> tuple[Float64[Tensor, "*vectors models"], Float64[Tensor, "*vectors models models"]]:
    """Lengths, and cosines of the angles between the models, seen from the base if there is one.

    Each tensor is one vector, or it is cut into vectors along an axis: 0 or -1, the last. A vector
    shorter than 1e-18 of the longest is taken for zero: it has length 0, and is orthogonal to all,
    itself included.
    """
    gram = operands.facts.get(
        ("dot products", axis, origin(operands)), lambda: _dot_products(operands, axis)
    )
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    norms = torch.where(norms <= 1e-18 * norms.amax(-1, keepdim=True), 0.0, norms)
    inverse = torch.where(norms == 0, 0.0, 1 / norms)
    cosines = gram * inverse.unsqueeze(-1) * inverse.unsqueeze(-2)
    return norms, cosines.clamp(-1, 1)


def _dot_products(
    operands: Operands, axis: int | None
) -> Float64[Tensor, "*vectors models models"]:
    values = [operands.delta(index).reshape(operands.shape) for index in range(len(operands))]
    stack = torch.stack(values)
    if axis is None or not operands.shape:
        return _grams(stack.reshape(len(values), 1, operands.size))[0].cpu()
    vectors = stack.movedim(1, -1) if axis == 0 else stack
    count = math.prod(vectors.shape[1:-1])
    products = _grams(vectors.reshape(len(values), count, vectors.shape[-1])).cpu()
    return products.reshape(*vectors.shape[1:-1], len(values), len(values))


def _grams(
    vectors: Shaped[Tensor, "models count length"],
) -> Float64[Tensor, "count models models"]:
    """Dot products between the models, for each vector apart; accumulated in float64."""
    models, count, length = vectors.shape
    products = torch.zeros(count, models, models, dtype=torch.float64, device=vectors.device)
    step = max(1, BLOCK // max(1, length))
    for total, block in zip(
        torch.split(products, step), torch.split(vectors, step, dim=1), strict=True
    ):
        for piece in torch.split(block, BLOCK, dim=2):
            wide = piece.double().transpose(0, 1)  # [vectors, models, entries]
            total += wide @ wide.mT
    return products
