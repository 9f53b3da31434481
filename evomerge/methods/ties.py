"""TIES-Merging."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.modelwise import cuts, lower_histograms, upper_histograms
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import largest
from evomerge.methods.kernel.sparse import (
    WEIGHT,
    band,
    blend,
    normalize_flag,
    rescale_flag,
    restored,
)
from evomerge.methods.kernel.weights import fractions
from evomerge.params import Choice, PerModel, Real, Shared


def upper(operands: Operands, scope: str) -> Tensor | None:
    return upper_histograms(operands) if scope == "model" else None


def lower(
    operands: Operands, totals: tuple[Tensor, ...], density: Tensor, scope: str
) -> Tensor | None:
    if scope != "model":
        return None
    return lower_histograms(operands, totals[0], ranks(totals[0], density))


def ranks(histograms: Tensor, density: Tensor) -> list[int]:
    """Per model how many entries of the whole model are kept."""
    return [kept(int(h.sum()), p) for h, p in zip(histograms, fractions(density))]


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2306.01708",
    surveys=(upper, lower),
    smooth=("lambda",),
)
def ties(
    operands: Operands,
    totals: tuple[Tensor, ...],
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[
        Float[Tensor, " models"], PerModel(Real(0.05, 1, default=0.5, valid=(0, 1)))
    ],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1))],
    normalize: Annotated[bool | str, normalize_flag(True)],
    rescale: Annotated[bool | str, rescale_flag(False)],
    scope: Annotated[str, Shared(Choice(("tensor", "model"), "tensor"), searched=False)],
) -> Entrywise:
    """Trim each delta, elect a sign per entry, average the deltas that agree with it.

        kept_i  = the max(1, int(density_i n)) entries of delta_i of largest magnitude
        sign    = + where sum_i weight_i kept_i >= 0, else -
        agree   = {i: sign(weight_i kept_i) = sign}                     per entry
        merged  = base + lambda sum_agree weight_i kept_i / sum_agree |weight_i|

    Args:
        operands: the sources and the base.
        totals: histograms of the magnitudes, with scope model.
        weight: coefficient of the model's delta, applied before the election.
        density: fraction of the model's entries kept, counted per tensor; 0 keeps none.
        lambda_: scale of the merged delta.
        normalize: divide by the summed weights of the models that agree: true takes their
            magnitudes, signed the weights as they are.
        rescale: scale each trimmed delta back to its L1 norm.
        scope: where entries compete to be kept: in each tensor, or in all tensors of the group, as in
            the paper; then all that tie at the cut are kept.

    Returns:
        The merge, entry by entry.

    Paper: Yadav et al. 2023, TIES-Merging; mergekit ``ties``.

    Deviations: of entries that tie at the cut the lowest flat indices are kept, where mergekit
    leaves that to the sort; mergekit divides by signed weights, which may cancel and explode the
    result (``normalize: signed``); with ``rescale`` mergekit spares norms below 1e-7, here a norm of
    which less than 1e-7 is left. The paper trims the whole model at once, as the authors' code does
    (``scope: model``; their code to the letter is ``ties_original``).
    """
    if scope == "model":
        survivors = band(cuts(totals[0], totals[1], ranks(totals[0], density)))
    else:
        counts = [kept(operands.size, p) for p in fractions(density)]
        survivors = band([largest(operands, i, count) for i, count in enumerate(counts)])
    if rescale:
        survivors = restored(operands, survivors)
    return blend(survivors, weight, scale=lambda_, elect=True, normalize=normalize)


def kept(size: int, density: float) -> int:
    """How many of ``size`` entries a density keeps: at least one unless it is 0."""
    return max(1, int(density * size)) if density > 0 else 0
