"""PCB-Merging: entries of the deltas compete, within their model and with the other models."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.competition import (
    Competitor,
    balanced,
    balanced_normalized,
    contest,
    contest_normalized,
)
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.modelwise import cuts, lower_histograms
from evomerge.methods.kernel.norms import GRID
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import order_statistic
from evomerge.methods.kernel.sparse import WEIGHT
from evomerge.methods.kernel.weights import fractions
from evomerge.methods.ties import upper
from evomerge.params import Choice, Real, Shared

Totals = tuple[Tensor, ...]
Range = tuple[float, float]


def lower(operands: Operands, totals: Totals, clamp: float, scope: str) -> Tensor | None:
    """Histograms that find the bounds of the magnitudes [low and high, models, 65536]."""
    if scope != "model":
        return None
    return torch.stack(
        [lower_histograms(operands, totals[0], ranks) for ranks in _ranks(totals[0], clamp)]
    )


def upper_scores(
    operands: Operands, totals: Totals, clamp: float, rivals: str, scope: str
) -> Tensor | None:
    """Counts of the upper 16 bits of each model's ``z`` [models, 65536]."""
    if scope != "model":
        return None
    bounds = _model_bounds(totals, clamp)
    compute = partial(_score_counts, operands, bounds, rivals)
    return operands.facts.get(("pcb scores", *bounds, rivals), compute).long()


def _score_counts(operands: Operands, bounds: list[Range], rivals: str) -> Tensor:
    keys = [_keys(_contest(operands, i, bounds, rivals)) for i in range(len(operands))]
    return torch.stack([_count((each >> 16) + (1 << 15)) for each in keys]).int()


def lower_scores(
    operands: Operands, totals: Totals, ratio: float, clamp: float, rivals: str, scope: str
) -> Tensor | None:
    """Of the lower 16 bits next to the quantile and the maximum [2, models, 65536]."""
    if scope != "model":
        return None
    bounds = _model_bounds(totals, clamp)
    found = torch.zeros(2, len(operands), 1 << 16, dtype=torch.int64)
    for i, counts in enumerate(totals[2]):
        keys = _keys(_contest(operands, i, bounds, rivals))
        for number, at in enumerate(_places(counts, ratio)):
            bucket, _ = _bucket(counts, at)
            found[number, i] = _count(keys[keys >> 16 == bucket - (1 << 15)] & 0xFFFF)
    return found


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2410.02396",
    min_models=2,
    surveys=(upper, lower, upper_scores, lower_scores),
)
def pcb(
    operands: Operands,
    totals: Totals,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    ratio: Annotated[float, Shared(Real(0.05, 0.5, default=0.1, valid=(0, 1)))],
    lambda_: Annotated[float, Shared(Real(0.6, 1.4, default=1, valid=(-100, 100)))],
    clamp: Annotated[float, Shared(Real(0, 0.05, default=1e-4, valid=(0, 0.5)), searched=False)],
    rivals: Annotated[str, Shared(Choice(("deltas", "normalized"), "deltas"), searched=False)],
    scope: Annotated[str, Shared(Choice(("tensor", "model"), "tensor"), searched=False)],
) -> Entrywise:
    """Average the deltas, each entry weighted by how it fares in competition.

        size_i  = |delta_i|, clamped to its order statistics at clamp and 1 - clamp
        mm_i    = size_i scaled to [0, 1]
        z_i     = exp(N mm_i^2) tanh(delta_i sum_j r_j),    r_j = delta_j or sign(delta_j) mm_j
        score_i = max(z_i, q_i) scaled to [0, 1],           q_i = the (1 - ratio) quantile of z_i
        merged  = base + lambda sum_i score_i weight_i sign(delta_i) size_i / sum_i score_i

    Args:
        operands: the sources and the base.
        totals: histograms of magnitudes and of ``z``, with scope model.
        weight: coefficient of the model's delta; it takes no part in the competition.
        ratio: fraction of the model's entries that score at all.
        lambda_: scale of the merged delta.
        clamp: fraction of entries at either end of the magnitudes that are clamped.
        rivals: what other models bring into the competition: their deltas, or these normalized.
        scope: where entries compete: in each tensor, or in all tensors of the group.

    Returns:
        The merge, entry by entry.

    Paper: Du et al. 2024, Parameter Competition Balancing for Model Merging. The authors' vision
    script clamps 0.01, normalizes rivals and has one lambda per model (``weight``).

    Deviations: entries compete per tensor, where the authors flatten the whole model (``scope:
    model``). A model whose scores are all equal, which they divide by zero, has score 0. ``exp`` is
    taken of ``N (mm_i^2 - 1)``, which cancels in the score and does not overflow. The sum of scores
    divides however small it is, where they divide by at least 1e-12.
    """
    models = range(len(operands))
    if scope == "model":
        bounds = _model_bounds(totals, clamp)
        limits = [_model_limits(totals[2][i], totals[3][:, i], ratio) for i in models]
    else:
        bounds = [_bounds(operands, i, clamp) for i in models]
        limits = [_limits(operands, i, bounds, ratio, clamp, rivals) for i in models]
    competitors = [
        _competitor(bound)._replace(quantile=limit[0], spread=_inverse(*limit), weight=w)
        for bound, limit, w in zip(bounds, limits, fractions(weight), strict=True)
    ]
    entry = balanced if rivals == "deltas" else balanced_normalized
    return entrywise(entry, competitors, lambda_)


def _competitor(bounds: Range) -> Competitor:
    return Competitor(*bounds, _inverse(*bounds))


def _inverse(low: float, high: float) -> float:
    """What scales a range to 1; 0 where there is none."""
    return 1 / (high - low) if high - low > 2.0**-120 else 0.0


def _contest(operands: Operands, index: int, bounds: list[Range], rivals: str) -> Tensor:
    """One model's ``z``, flat."""
    models = [
        _competitor(bound)._replace(chosen=float(i == index)) for i, bound in enumerate(bounds)
    ]
    entry = contest if rivals == "deltas" else contest_normalized
    return operands.values(entry, models, models[index]).view(-1)


def _ends(size: int, clamp: float) -> tuple[int, int]:
    """How many magnitudes reach the lower and the upper bound."""
    return size - int(clamp * size), size - max(int(size * (1 - clamp) - 1), 0)


# -- order statistics of a tensor ----------------------------------------------------------------


def _bounds(operands: Operands, index: int, clamp: float) -> Range:
    """What a delta's magnitudes are clamped to."""
    if operands.size == 0:
        return 0.0, 0.0
    compute = partial(_clamp, operands, index, clamp)
    return operands.facts.get(("pcb bounds", clamp), compute, of=operands.names[index])


def _clamp(operands: Operands, index: int, clamp: float) -> Range:
    ends = _ends(operands.size, clamp)
    low, high = (order_statistic(operands, index, count)[0] for count in ends)
    return low, max(low, high)


def _limits(
    operands: Operands, index: int, bounds: list[Range], ratio: float, clamp: float, rivals: str
) -> Range:
    """The (1 - ratio) quantile of one model's ``z``, and its largest."""
    if operands.size == 0:
        return 0.0, 0.0
    step = round(ratio * GRID)
    if operands.facts.lasting and step / GRID == ratio:
        compute = partial(_quantiles, operands, index, bounds, rivals)
        known = operands.facts.get(("pcb quantiles", index, clamp, rivals), compute)
        return float(known[step]), float(known[-1])
    z = _ascending(operands, index, bounds, rivals)
    return float(z[_places_in(len(z), np.float64(ratio))]), float(z[-1])


def _quantiles(
    operands: Operands, index: int, bounds: list[Range], rivals: str
) -> NDArray[np.float32]:
    """The quantile for each ratio on the grid, and the largest."""
    z = _ascending(operands, index, bounds, rivals)
    return np.append(z[_places_in(len(z), np.arange(GRID + 1) / GRID)], z[-1])


def _ascending(
    operands: Operands, index: int, bounds: list[Range], rivals: str
) -> NDArray[np.float32]:
    z = _contest(operands, index, bounds, rivals)
    if not z.is_cpu:
        return z.sort().values.cpu().numpy()
    z.numpy().sort()
    return z.numpy()


def _places_in(size: int, ratio: Any) -> Any:
    """Where the (1 - ratio) quantile stands among ``size`` sorted values."""
    return np.minimum(((1 - ratio) * size).astype(np.int64), size - 1)


# -- order statistics of a model -----------------------------------------------------------------


def _ranks(histograms: Tensor, clamp: float) -> tuple[list[int], list[int]]:
    """Per model the ranks of the lower and the upper bound, 1 being the largest magnitude."""
    ends = [_ends(int(histogram.sum()), clamp) for histogram in histograms]
    return [low for low, _ in ends], [high for _, high in ends]


def _model_bounds(totals: Totals, clamp: float) -> list[Range]:
    lows, highs = (
        [cut.value for cut in cuts(totals[0], totals[1][end], ranks)]
        for end, ranks in enumerate(_ranks(totals[0], clamp))
    )
    return [(low, max(low, high)) for low, high in zip(lows, highs, strict=True)]


def _model_limits(counts: Tensor, lower: Tensor, ratio: float) -> Range:
    low, high = (
        _value_at(counts, fine, at) for fine, at in zip(lower, _places(counts, ratio), strict=True)
    )
    return low, high


def _places(counts: Tensor, ratio: float) -> tuple[int, int]:
    """Where the quantile and the maximum stand among all values, sorted."""
    size = int(counts.sum())
    return int(_places_in(size, np.float64(ratio))), size - 1


def _keys(z: Tensor) -> Tensor:
    """Whole numbers (int32) that are ordered as the floats are."""
    bits = z.view(torch.int32)
    return bits ^ (bits >> 31 & 0x7FFFFFFF)


def _count(keys: Tensor) -> Tensor:
    return torch.bincount(keys, minlength=1 << 16).cpu()


def _bucket(counts: Tensor, at: int) -> tuple[int, int]:
    """The bucket in which a place lies, and the place within it."""
    reached = counts.cumsum(0)
    bucket = min(int(torch.searchsorted(reached, at, right=True)), len(counts) - 1)
    return bucket, at - int(reached[bucket] - counts[bucket])


def _value_at(upper: Tensor, lower: Tensor, at: int) -> float:
    """The float at a place, from its two histograms."""
    bucket, within = _bucket(upper, at)
    bits = (bucket << 16 | _bucket(lower, within)[0]) - (1 << 31)
    bits ^= bits >> 31 & 0x7FFFFFFF
    return float(np.array([bits], np.int32).view(np.float32)[0])
