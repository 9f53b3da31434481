"""Whole-model scopes: thresholds over all tensors at once, from histograms that add up.

A survey looks at one tensor; its results are summed over the model. Two of them find any order
statistic of a model's magnitudes exactly: the first counts the upper 16 bits of the float32s, the
second the lower 16 of those in the bucket where the wanted rank falls. No tensor is ever joined to
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from evomerge.methods.kernel.leaves import NOTHING, Cut
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import histogram, select

END = 1 << 62  # behind the last entry of any tensor: every tie is kept


def upper_histograms(operands: Operands) -> Tensor:
    """Counts of the upper 16 bits of each delta's magnitudes, int64 [models, 32768]."""
    return torch.stack([histogram(operands, index) for index in range(len(operands))]).long()


def lower_histograms(operands: Operands, upper: Tensor, ranks: Sequence[int]) -> Tensor:
    """Counts of the lower 16 bits of the magnitudes that share their upper bits with the wanted one.

    Args:
        operands: one tensor.
        upper: what ``upper_histograms`` found in the whole model.
        ranks: per model the rank wanted, 1 being the largest magnitude; 0: none.

    Returns:
        int64 [models, 65536].
    """
    found = []
    for index, rank in enumerate(ranks):
        if not 0 < rank <= int(upper[index].sum()):
            found.append(torch.zeros(1 << 16, dtype=torch.int64))
            continue
        larger = upper[index].flip(0).cumsum(0)
        bucket = len(larger) - 1 - int(torch.searchsorted(larger, rank))
        found.append(histogram(operands, index, bucket))
    return torch.stack(found)


def cuts(upper: Tensor, lower: Tensor, ranks: Sequence[int]) -> list[Cut]:
    """Per model the cut at the magnitude of a rank in the whole model; what ties with it is kept."""
    found = []
    for index, rank in enumerate(ranks):
        count = min(rank, int(upper[index].sum()))
        if count <= 0:
            found.append(NOTHING)
            continue
        value, _ = select(partial(_counts, upper[index], lower[index]), count)
        found.append(Cut(value, END))
    return found


def _counts(upper: Tensor, lower: Tensor, bucket: int | None) -> Tensor:
    return upper if bucket is None else lower
