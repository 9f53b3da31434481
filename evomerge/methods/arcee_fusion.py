"""Arcee Fusion: take over only the changes that stand out."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.leaves import Entries
from evomerge.methods.kernel.operands import Operands

BLOCK = 1 << 20  # entries taken at a time


@merge_method(
    base="required",
    paper="https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md",
    max_models=1,
    copies=6,
)
def arcee_fusion(operands: Operands) -> Entrywise:
    """Take an entry from the model where its change is an outlier in importance, else the base's.

        P, Q         = softmax of the model's and the base's rows (last axis), each plus 1e-8
        importance   = |W - base| sum_row P log(P / Q)
        merged       = W where importance >= q(1/2) + 3/2 (q(3/4) - q(1/4)), else base

    where ``q(p)`` is the importance at place ``floor(p (n - 1))`` of the tensor's n, in order. It
    has no parameters.

    Args:
        operands: the model and the base.

    Returns:
        The merge, entry by entry.

    Paper: none; mergekit ``arcee_fusion``.

    Deviations: the quartiles are exact for every size (mergekit estimates those of more than a
    million entries from a random million), and the importance is computed in float64, where the
    divergence of nearly equal rows does not drown.
    """
    taken = operands.facts.get("arcee_fusion: taken", lambda: _outliers(operands))
    return entrywise(_taken, Entries(taken))


def _taken(deltas: Numbers, taken: Number) -> Number:
    return where(taken > 0.0, deltas[0], 0.0)


def _outliers(operands: Operands) -> Bool[Tensor, "*shape"]:
    """Where the change is important."""
    model, base = operands.tensors[0], operands.base
    assert base is not None  # the declaration requires it
    if not operands.size:
        return torch.zeros(operands.shape, dtype=torch.bool, device=operands.device)
    columns = operands.shape[-1] if operands.shape else 1
    rows = max(1, BLOCK // columns)
    blocks = (torch.split(x.reshape(-1, columns), rows) for x in (model, base))
    importance = torch.cat([_importance(*pair) for pair in zip(*blocks, strict=True)])
    lower, middle, upper = _quartiles(importance)
    return (importance >= middle + 1.5 * (upper - lower)).reshape(operands.shape)


def _importance(
    model: Float[Tensor, "rows columns"], base: Float[Tensor, "rows columns"]
) -> Tensor:
    w, origin = model.double(), base.double()
    p, q = w.softmax(1) + 1e-8, origin.softmax(1) + 1e-8
    divergence = (p * (p / q).log()).sum(1, keepdim=True)
    return (w - origin).abs() * divergence


def _quartiles(importance: Tensor) -> list[float]:
    flat = importance.flatten().cpu().numpy()
    places = [int(quarter * (flat.size - 1) / 4) for quarter in (1, 2, 3)]
    return [float(value) for value in np.partition(flat, places)[places]]
