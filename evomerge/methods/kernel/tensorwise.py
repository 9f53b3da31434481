"""Steps of kernels that take whole tensors.

A result must not depend on the number of threads, so sums over models are loops of plain
multiplications and additions.
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
