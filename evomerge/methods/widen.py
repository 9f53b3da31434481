"""WIDEN: weight disentanglement."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.params import Real, Shared


@merge_method(
    base="required",
    elementwise=False,
    paper="https://arxiv.org/abs/2408.03092",
    min_models=2,
)
def widen(
    tensors: Float[Tensor, " models *shape"],
    base: Float[Tensor, "*shape"],
    role: str,
    above_average_value_ratio: Annotated[float, Shared(Real(0.5, 1.9, default=1))],
    score_calibration_value: Annotated[float, Shared(Real(0.3, 1.3, default=1))],
) -> Float[Tensor, "*shape"]:
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
        tensors: the models [models, *shape].
        base: the base model [*shape].
        role: ``embed`` makes rows of a matrix its columns.
        above_average_value_ratio: how far above the average a rank is calibrated; 2 is never.
        score_calibration_value: the score of those columns.

    Returns:
        The merged tensor [*shape].

    Paper: Yu et al. 2024, Extend Model Merging from Fine-Tuned to Pre-Trained LLMs.

    Deviations: ranks are compared as whole numbers, so equality is no accident of rounding, and
    changes are computed in float64, where small directions do not drown. Roles come from the
    caller, so any architecture will do. Tensors of more than two axes are taken as [out, rest].
    """
    ratio, calibration = above_average_value_ratio, score_calibration_value
    if role == "embed" and base.ndim > 1:
        turned = widen(tensors.flatten(2).mT, base.flatten(1).mT, "other", ratio, calibration)
        return turned.mT.reshape(base.shape)
    if base.ndim > 1:
        models, origin = tensors.flatten(2), base.flatten(1)
        magnitude, direction = (
            _rank_scores(ranks, ratio, calibration) for ranks in column_ranks(models, origin)
        )
        scores = (magnitude + direction).unsqueeze(1) / 2  # [models, 1, columns]
    else:
        models, origin = tensors.reshape(len(tensors), base.numel()), base.reshape(base.numel())
        scores = _entry_scores(models - origin, ratio, calibration)  # [models, entries]
    merged = origin.clone()
    for model, score in zip(models, scores.float(), strict=True):
        merged += score * (model - origin)
    return merged.reshape(base.shape)


def column_ranks(
    tensors: Float[Tensor, "models rows columns"], base: Float[Tensor, "rows columns"]
) -> tuple[Int[Tensor, "models columns"], Int[Tensor, "models columns"]]:
    """Rank 0..columns-1 of each column's change of magnitude and of direction, within its model.

    Ascending and stable. A zero column has no direction; its NaN ranks highest.
    """
    origin = base.double()
    norm = origin.norm(dim=0)
    magnitude, direction = [], []
    for tensor in tensors:
        own = tensor.double().norm(dim=0)
        magnitude.append((own - norm).abs())
        # 1 - cos(u, v) = |u/|u| - v/|v||^2 / 2, which does not cancel
        direction.append((tensor / own - origin / norm).square().sum(0) / 2)
    return _ranks(torch.stack(magnitude)), _ranks(torch.stack(direction))


def _ranks(changes: Float[Tensor, "models columns"]) -> Int[Tensor, "models columns"]:
    return changes.argsort(dim=1, stable=True).argsort(dim=1)


def _rank_scores(
    ranks: Int[Tensor, "models columns"], ratio: float, calibration: float
) -> Float[Tensor, "models columns"]:
    columns = ranks.shape[1]
    softmax = (ranks.double() / max(columns, 1)).softmax(0)
    # the mean rank is (columns - 1) / 2
    return _calibrated(softmax, 2 * ranks > ratio * (columns - 1), calibration)


def _entry_scores(
    deltas: Float[Tensor, "models entries"], ratio: float, calibration: float
) -> Float[Tensor, "models entries"]:
    change = deltas.double().abs()
    above = change > ratio * change.mean(1, keepdim=True)
    return _calibrated(change.softmax(0), above, calibration)


def _calibrated(scores: Tensor, above: Tensor, calibration: float) -> Tensor:
    return torch.where(above, calibration, scores)
