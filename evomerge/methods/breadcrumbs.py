"""Model Breadcrumbs: cut both the smallest and the largest entries of each delta."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.leaves import EVERYTHING, NOTHING
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import largest, ranks
from evomerge.methods.kernel.sparse import (
    LAMBDA,
    WEIGHT,
    Survivor,
    band,
    blend,
    normalize_flag,
    rescale_flag,
    restored,
    within,
)
from evomerge.methods.kernel.weights import fractions
from evomerge.params import Choice, Flag, PerModel, Real, Shared

PAPER = "https://arxiv.org/abs/2312.06795"
DENSITY = PerModel(Real(0.05, 1, default=0.9, valid=(0, 1)))
GAMMA = PerModel(Real(0, 0.05, default=0.01, valid=(0, 1)))
SCOPE = Shared(Choice(("tensor", "row"), "tensor"), searched=False)
RESCALE = rescale_flag(False)


@merge_method(base="required", paper=PAPER, smooth=("weight", "lambda"))
def breadcrumbs(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    gamma: Annotated[Float[Tensor, " models"], GAMMA],
    lambda_: Annotated[float, LAMBDA],
    scope: Annotated[str, SCOPE],
    normalize: Annotated[bool, Shared(Flag(False), searched=False)],
    rescale: Annotated[bool, RESCALE],
) -> Entrywise:
    """Cut the largest entries of each delta, keep the next largest, add up with weights.

        top    = int(gamma_i n), at most n - int(density_i n)
        kept_i = delta_i where it is among the top + int(density_i n) largest, but not among the
                 top largest, else 0
        merged = base + lambda sum_i weight_i kept_i         (/ sum_i weight_i if normalize)

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta.
        density: fraction of the entries kept; 1 cuts nothing at all, not even outliers.
        gamma: fraction of the entries cut as outliers.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        scope: what the fractions are of: each tensor, or each row of its last axis.
        normalize: divide by the sum of the weights, unless that is 0.
        rescale: scale each delta's rest back to its L1 norm.

    Returns:
        The merge, entry by entry.

    Paper: Davari and Belilovsky 2024, Model Breadcrumbs; mergekit ``breadcrumbs``. The authors'
    code cuts row by row (``scope: row``) and counts what it keeps from the top.

    Deviations: of entries that tie at a cut the lowest flat indices count as larger, in rows the
    highest, where mergekit leaves that to the sort; with ``rescale`` mergekit spares norms below
    1e-7, here a norm of which less than 1e-7 is left.
    """
    survivors = _cut(operands, fractions(density), fractions(gamma), scope, rescale)
    return blend(survivors, weight, scale=lambda_, elect=False, normalize=normalize)


@merge_method(base="required", paper=PAPER, smooth=("lambda",))
def breadcrumbs_ties(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    gamma: Annotated[Float[Tensor, " models"], GAMMA],
    lambda_: Annotated[float, LAMBDA],
    scope: Annotated[str, SCOPE],
    normalize: Annotated[bool | str, normalize_flag(False)],
    rescale: Annotated[bool, RESCALE],
) -> Entrywise:
    """Cut the largest entries of each delta, keep the next largest, then elect signs as TIES does.

        kept_i = as in breadcrumbs
        sign   = + where sum_i weight_i kept_i >= 0, else -
        agree  = {i: sign(weight_i kept_i) = sign}                      per entry
        merged = base + lambda sum_agree weight_i kept_i    (/ sum_agree |weight_i| if normalize)

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta, applied before the election.
        density: fraction of the entries kept; 1 cuts nothing at all, not even outliers.
        gamma: fraction of the entries cut as outliers.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        scope: what the fractions are of: each tensor, or each row of its last axis.
        normalize: divide by the summed weights of the models that agree: true takes their
            magnitudes, signed the weights as they are.
        rescale: scale each delta's rest back to its L1 norm.

    Returns:
        The merge, entry by entry.

    Paper: Davari and Belilovsky 2024, Model Breadcrumbs; Yadav et al. 2023, TIES-Merging; mergekit
    ``breadcrumbs_ties``.

    Deviations: those of ``breadcrumbs``; and mergekit divides by signed weights, which may cancel
    (``normalize: signed``).
    """
    survivors = _cut(operands, fractions(density), fractions(gamma), scope, rescale)
    return blend(survivors, weight, scale=lambda_, elect=True, normalize=normalize)


def _cut(
    operands: Operands, density: list[float], gamma: list[float], scope: str, rescale: bool
) -> list[Survivor]:
    survivors = (by_row if scope == "row" else by_tensor)(operands, density, gamma)
    return restored(operands, survivors) if rescale else survivors


def by_tensor(operands: Operands, density: list[float], gamma: list[float]) -> list[Survivor]:
    """Entries between two cuts of the whole tensor."""
    low, high = [], []
    for index, (p, g) in enumerate(zip(density, gamma, strict=True)):
        top, keep = counts(operands.size, p, g)
        low.append(EVERYTHING if p >= 1 else largest(operands, index, top + keep))
        high.append(NOTHING if p >= 1 else largest(operands, index, top) if top else NOTHING)
    return band(low, high)


def by_row(operands: Operands, density: list[float], gamma: list[float]) -> list[Survivor]:
    """Entries between two ranks in their row."""
    masks = []
    length = operands.shape[-1] if operands.shape else 1
    for index, (p, g) in enumerate(zip(density, gamma, strict=True)):
        top, keep = counts(length, p, g)
        places = ranks(operands, index, length).to(torch.int32)
        masks.append((places < length - top) & (places >= length - top - keep))
    return within(masks)


def counts(size: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of ``size`` entries are cut from the top, and how many are kept below."""
    keep = int(density * size) if density < 1 else size
    return min(int(gamma * size), size - keep), keep
