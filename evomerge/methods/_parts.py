"""Steps that several kernels share.

A result must not depend on how a tensor is cut into tiles or on the number of threads. So sums over
models are loops of plain multiplications and additions (a fused multiply-add rounds differently in
the vectorised body and in the tail of a loop), and norms accumulate in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def weighted_sum(
    values: Float[Tensor, " models *shape"], weight: Float[Tensor, " models"]
) -> Float[Tensor, "*shape"]:
    """``sum_i weight_i values_i``, in model order."""
    total = torch.zeros_like(values[0])
    for value, factor in zip(values, weight.tolist(), strict=True):
        total += value * factor
    return total


def weight_total(weight: Float[Tensor, " models"], normalize: bool) -> float:
    """The divisor of a normalised sum: the weights' sum, or 1 where that vanishes."""
    total = float(weight.sum())
    return total if normalize and abs(total) >= 1e-8 else 1.0


def trim(
    deltas: Float[Tensor, " models *shape"], density: Float[Tensor, " models"]
) -> Float[Tensor, " models *shape"]:
    """Each delta with only its ``max(1, int(density n))`` entries of largest magnitude.

    Density 0 keeps none, 1 all. Among equal magnitudes at the cut the lowest flat indices stay, on
    every device.
    """
    return torch.stack(
        [delta * largest(delta.abs(), p) for delta, p in zip(deltas, density.tolist(), strict=True)]
    )


def largest(magnitude: Float[Tensor, "*shape"], density: float) -> Bool[Tensor, "*shape"]:
    """Where the ``max(1, int(density n))`` largest entries are; first come first at the cut."""
    size = magnitude.numel()
    if density <= 0 or density >= 1 or size == 0:
        return torch.full_like(magnitude, density > 0, dtype=torch.bool)
    count = max(1, int(density * size))
    flat = magnitude.flatten()
    cut = _order_statistic(flat, size - count)
    kept = flat >= cut
    surplus = int(kept.sum()) - count
    if surplus > 0:
        at_cut = (flat == cut).nonzero().squeeze(1)  # ascending
        kept[at_cut[-surplus:]] = False
    return kept.reshape(magnitude.shape)


def _order_statistic(flat: Float[Tensor, " n"], index: int) -> float:
    """The entry that would stand at ``index`` if ``flat`` were sorted."""
    if flat.is_cpu:  # NumPy selects several times faster than torch
        return float(np.partition(flat.numpy(), index)[index])
    return float(flat.kthvalue(index + 1).values)


def drop(
    deltas: Float[Tensor, " models *shape"],
    density: Float[Tensor, " models"],
    noise: Float[Tensor, " models *shape"],
) -> Float[Tensor, " models *shape"]:
    """Each delta with the entries whose uniform is below its density; the others are 0."""
    return torch.stack(
        [
            delta * (uniform < p)
            for delta, uniform, p in zip(deltas, noise, density.tolist(), strict=True)
        ]
    )


def restore_norm(
    sparse: Float[Tensor, " models *shape"], deltas: Float[Tensor, " models *shape"]
) -> Float[Tensor, " models *shape"]:
    """Each sparse delta scaled to the L1 norm it had when dense.

    Left as it is where less than 1e-7 of the norm survived, which no scalar brings back.
    """
    factors = []
    for kept, full in zip(sparse, deltas, strict=True):
        norm = float(torch.linalg.vector_norm(kept, 1, dtype=torch.float64))
        target = float(torch.linalg.vector_norm(full, 1, dtype=torch.float64))
        factors.append(target / norm if norm > 1e-7 * target else 1.0)
    return torch.stack([kept * factor for kept, factor in zip(sparse, factors, strict=True)])


def elect(
    deltas: Float[Tensor, " models *shape"],
    weight: Float[Tensor, " models"],
    normalize: bool,
) -> Float[Tensor, "*shape"]:
    """TIES: per entry, add up the weighted deltas that have the sign of their sum.

    A sum of 0 counts as positive. ``normalize`` divides by the summed weights of the models that
    take part in the entry (1 where that sum is 0).
    """
    sign = (weighted_sum(deltas, weight) >= 0).to(deltas) * 2 - 1
    merged, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, factor in zip(deltas, weight.tolist(), strict=True):
        agreeing = (delta * factor).mul_(sign).clamp_(min=0)
        merged += agreeing
        if normalize:
            divisor += agreeing.sign_() * factor
    return sign * (merged / (divisor + (divisor == 0)) if normalize else merged)
