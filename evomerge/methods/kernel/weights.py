"""Weighted sums: the coefficients as numbers, and the entry function."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.methods.kernel.entrywise import Number, Numbers


def fractions(values: Tensor) -> list[float]:
    """A per-model parameter as Python numbers."""
    return [float(value) for value in values.to(torch.float64)]


def weight_total(weight: Tensor, normalize: bool) -> float:
    """The divisor of a normalised sum: the weights' sum, or 1 where that vanishes."""
    total = float(weight.sum())
    return total if normalize and abs(total) >= 1e-8 else 1.0


def weighted(values: Numbers, weight: Numbers, scale: Number) -> Number:
    """The weighted sum, scaled; for entry functions and as one."""
    total = 0.0
    for value, factor in zip(values, weight):
        total = total + value * factor
    return total * scale
