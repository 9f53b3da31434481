"""EMR-Merging: elect, mask, rescale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.operands import Operands


@merge_method(base="required", paper="https://arxiv.org/abs/2405.17461")
def emr(operands: Operands) -> Entrywise:
    """Per entry, elect the sign of the summed deltas and take the largest delta of that sign.

        merged = base + (max_i delta_i where sum_i delta_i > 0, else min_i delta_i)

    This unified model is a merge by itself. The paper goes on to adapt it to each task by a mask
    and a scale: ``masks`` and ``rescalers``.

    Args:
        operands: the sources and the base.

    Returns:
        The merged delta.

    Paper: Huang et al. 2024, EMR-Merging: Tuning-Free High-Performance Model Merging.

    Deviations: none; written without masks, since where the sum is positive the largest delta is.
    """
    return entrywise(_largest_elected)


def _largest_elected(deltas: Numbers) -> Number:
    total = 0.0
    high = deltas[0]
    low = deltas[0]
    for delta in deltas:
        total = total + delta
        high = where(delta > high, delta, high)
        low = where(delta < low, delta, low)
    return where(total > 0.0, high, low)


def masks(
    deltas: Float[Tensor, " models *shape"], unified: Float[Tensor, "*shape"]
) -> Bool[Tensor, " models *shape"]:
    """Where each model agrees with the unified delta in sign."""
    return deltas * unified > 0


def rescalers(
    deltas: Mapping[str, Float[Tensor, " models *shape"]],
    unified: Mapping[str, Float[Tensor, "*shape"]],
) -> Float64[Tensor, " models"]:
    """What brings the masked unified model to the mean magnitude of each model.

        rescaler_i = sum_t mean|delta_i,t| / sum_t mean|unified_t mask_i,t|      over tensors t

    so that task i is served by ``base + rescaler_i mask_i unified``. Each tensor counts alike,
    whatever its size. A model that agrees nowhere is not rescaled.

    Args:
        deltas: tensor name -> sources minus base [models, *shape].
        unified: tensor name -> merged delta of ``emr`` [*shape].
    """
    full, kept = (
        torch.stack([_means(delta) for delta in each]).sum(0)
        for each in (
            deltas.values(),
            (masks(delta, unified[name]) * unified[name] for name, delta in deltas.items()),
        )
    )
    return torch.where(kept > 0, full / kept, 1.0)


def _means(tensors: Float[Tensor, " models *shape"]) -> Float64[Tensor, " models"]:
    """Mean magnitudes; 0 of nothing."""
    entries = (
        tensors.reshape(len(tensors), -1) if tensors.numel() else tensors.new_zeros(len(tensors), 1)
    )
    return entries.double().abs().mean(1)
