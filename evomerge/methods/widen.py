"""WIDEN: weight disentanglement."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import nan
from typing import Annotated

import torch
from jaxtyping import Float, Float64, Int32
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.leaves import Columns, Entries, Rows
from evomerge.methods.kernel.norms import mass
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.tiled import CPU_TILE, DEVICE_TILE
from evomerge.methods.kernel.weights import weighted
from evomerge.params import Real, Shared


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2408.03092",
    min_models=2,
)
def widen(
    operands: Operands,
    role: str,
    above_average_value_ratio: Annotated[float, Shared(Real(0.5, 1.9, default=1))],
    score_calibration_value: Annotated[float, Shared(Real(0.3, 1.3, default=1))],
) -> Entrywise:
    """Weigh each model's columns by how much they changed, in magnitude and in direction.

    For a matrix, per model i and column j (one input feature; in the embedding one token):

        m_ij   = rank of | |W_i[:, j]| - |base[:, j]| | among the columns of model i
        d_ij   = rank of 1 - cos(W_i[:, j], base[:, j])
        s(r)   = calibration where r_ij > ratio mean_j(r_i), else softmax_i(r_ij / columns)
        merged = base + sum_i (s(m)_ij + s(d)_ij) / 2 (W_i - base)

    A vector has no columns: its entries are scored by ``|W_i - base|`` itself, against its mean.
    The scores of the models need not sum to 1: at ratio 1 and calibration 1 half of every model's
    columns are added in full.

    Args:
        operands: the sources and the base.
        role: ``embed`` makes rows of a matrix its columns.
        above_average_value_ratio: how far above the average a rank is calibrated; 2 is never.
        score_calibration_value: the score of those columns.

    Returns:
        The merge, entry by entry.

    Paper: Yu et al. 2024, Extend Model Merging from Fine-Tuned to Pre-Trained LLMs.

    Deviations: ranks are compared as whole numbers, so equality is no accident of rounding, and
    changes are computed in float64, where small directions do not drown. Roles come from the
    caller, so any architecture will do. Tensors of more than two axes are taken as [out, rest].
    """
    ratio, calibration = above_average_value_ratio, score_calibration_value
    if len(operands.shape) < 2:
        scores = _entry_scores(operands, ratio, calibration).float()
        return entrywise(weighted, [Entries(each) for each in scores], 1.0)
    assert operands.base is not None
    by_row = role == "embed"
    ranks = [
        operands.facts.get(
            ("column ranks", by_row), partial(column_ranks, tensor, operands.base, by_row), of=name
        )
        for name, tensor in zip(operands.names, operands.tensors, strict=True)
    ]
    both = torch.stack(ranks, dim=1)  # [magnitude and direction, models, columns]
    scores = _rank_scores(both, ratio, calibration).mean(0).float()
    kind = Rows if by_row else Columns
    return entrywise(weighted, [kind(each) for each in scores], 1.0)


def column_ranks(
    tensor: Float[Tensor, "rows columns"], base: Float[Tensor, "rows columns"], by_row: bool = False
) -> Int32[Tensor, "2 units"]:
    """Rank 0..columns-1 of each column's change of magnitude, and of its change of direction.

    With ``by_row`` of each row. Ascending and stable. A zero column has no direction; its NaN ranks highest.
    """
    origin, along, change = _products(tensor, base, by_row)
    own, norm = (origin + 2 * along + change).clamp_(min=0).sqrt(), origin.sqrt()
    # |w| - |b| and 1 - cos(w, b) from w - b, so that nothing cancels where it is small
    grown = torch.where(change > 0, (2 * along + change) / (own + norm), 0.0)
    turned = (change - grown.square()).clamp_(min=0) / torch.where(own * norm > 0, own * norm, nan)
    changes = torch.stack([grown.abs(), turned])
    return changes.argsort(dim=1, stable=True).argsort(dim=1).int()


def _products(tensor: Tensor, base: Tensor, by_row: bool) -> Float64[Tensor, "3 units"]:
    """Per column ``|b|^2``, ``b (w - b)`` and ``|w - b|^2``, in tiles: no copy of the tensor."""
    rows, columns = tensor.shape
    sums = tensor.new_zeros(3, rows if by_row else columns, dtype=torch.float64)
    for at in _tiles(rows, columns, CPU_TILE if tensor.is_cpu else DEVICE_TILE):
        origin = base[at].double()
        change = tensor[at].double() - origin
        into = sums[:, at[0] if by_row else at[1]]
        for slot, (left, right) in zip(
            into, ((origin, origin), (origin, change), (change, change)), strict=True
        ):
            slot += (left * right).sum(1 if by_row else 0)
    return sums


def _tiles(rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a matrix of at most ``size`` entries, whose sums no thread count changes."""
    width = max(min(columns, size), 1)
    height = max(size // width, 1)
    for left in range(0, columns, width):
        for top in range(0, rows, height):
            yield slice(top, top + height), slice(left, left + width)


def _rank_scores(
    ranks: Int32[Tensor, "2 models columns"], ratio: float, calibration: float
) -> Float64[Tensor, "2 models columns"]:
    columns = ranks.shape[2]
    softmax = (ranks.double() / max(columns, 1)).softmax(1)
    # the mean rank is (columns - 1) / 2
    return _calibrated(softmax, 2 * ranks > ratio * (columns - 1), calibration)


def _entry_scores(
    operands: Operands, ratio: float, calibration: float
) -> Float64[Tensor, "models 1 entries"]:
    change = torch.stack([operands.delta(i).abs() for i in range(len(operands))]).double()
    means = [mass(operands, i) / max(operands.size, 1) for i in range(len(operands))]
    above = change > ratio * change.new_tensor(means).view(-1, 1, 1)
    return _calibrated(change.softmax(0), above, calibration)


def _calibrated(scores: Tensor, above: Tensor, calibration: float) -> Tensor:
    return torch.where(above, calibration, scores)
