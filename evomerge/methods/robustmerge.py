"""RobustMerge: the factors of adapters, pruned, rescaled rank by rank, added up at the rank they have."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.factors import Factors
from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions, weighted
from evomerge.params import Flag, PerModel, Real, Shared


@merge_method(
    base="required", paper="https://arxiv.org/abs/2502.17159", smooth=("weight", "lambda")
)
def robustmerge(
    operands: Operands,
    factors: tuple[Factors, ...] | None,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    density: Annotated[
        Float[Tensor, " models"], PerModel(Real(0.05, 1, default=0.2, valid=(0, 1)))
    ],
    quantile: Annotated[float, Shared(Real(0, 1, default=0.8, valid=(0, 1)))],
    normalize: Annotated[bool, Shared(Flag(True))],
    lambda_: Annotated[float, Shared(Real(0, 4, default=2, valid=(0, 100)), searched=False)],
) -> Entrywise | Factors:
    """Prune the factors of each adapter, give weak directions back what they lost, add the factors up.

        A_i', B_i'  = the largest entries of A_i and of B_i
        s_ik        = sum_j |A_i[k, j]| / sum_j |A_i'[k, j]|, at least its quantile over the ranks k
        A           = lambda sum_i weight_i A_i'
        B[:, k]     = lambda sum_i weight_i s_ik B_i'[:, k] / sum_i s_ik    (normalize; else / models)
        merged      = base + B A

    What is not held in factors by all models is averaged: base + sum_i weight_i delta_i / models.

    Args:
        operands: the sources and the base.
        factors: B (left) and A (right) of each source's delta.
        weight: coefficient of the model's factors; it counts twice, as both of them have it.
        density: share of the entries of each of the model's factors that is kept.
        quantile: of a model's scales, below which none of them stays.
        normalize: divide by the sum of the scales, rank by rank, so that no model counts more for having lost more.
        lambda_: coefficient of either merged factor; redundant with the weights, so not searched by itself.

    Returns:
        The merged factors, of the largest rank of the sources.

    Paper: Zeng et al. 2025, RobustMerge: Parameter-Efficient Model Merging for MLLMs with Direction
    Robustness.

    Deviations: the authors' code does the same without weights, at lambda 2. There a rank of which
    nothing is kept has an infinite scale, and the merge is NaN; here such a rank has scale 0, so that
    others make up its direction. Adapters of smaller rank than others are filled up with zeros. Scales
    of adapters (alpha / r) are part of their factors, half of it in each: the same where they are equal.
    """
    weights = fractions(weight)
    if factors is None:
        return entrywise(weighted, weights, 1 / len(operands))
    rank = max(each.rank for each in factors)
    rows, columns = factors[0].shape
    left, right = torch.zeros(rows, rank), torch.zeros(rank, columns)
    left, right = left.to(operands.device), right.to(operands.device)
    total = left.new_zeros(rank)
    for each, share, kept in zip(factors, weights, fractions(density), strict=True):
        own = slice(0, each.rank)
        b, a = _largest(each.left, kept), _largest(each.right, kept)
        scale = _scales(each.right, a, quantile)
        right[own] += a * share
        left[:, own] += b * (scale * share)
        total[own] += scale
    divisor = torch.where(total > 0, total, 1.0) if normalize else float(len(factors))
    return Factors(left * lambda_ / divisor, right * lambda_)


def _largest(factor: Float[Tensor, "rows columns"], density: float) -> Tensor:
    """The factor with only its entries from the int((1 - density) n)-th of n magnitudes on, those at it included."""
    cut = int(factor.numel() * (1 - density))
    if cut < 1:
        return factor
    magnitude = factor.abs()
    return factor * (magnitude >= magnitude.flatten().kthvalue(cut).values)


def _scales(
    whole: Float[Tensor, "rank columns"], kept: Float[Tensor, "rank columns"], quantile: float
) -> Float[Tensor, " rank"]:
    """By what each rank has to grow to be as long (L1) as before it was pruned, none less than the quantile."""
    before, after = whole.abs().sum(1), kept.abs().sum(1)
    scale = torch.where(after > 0, before / torch.where(after > 0, after, 1.0), 0.0)
    if not len(scale):
        return scale
    least = scale.sort().values[min(int(len(scale) * quantile), len(scale) - 1)]
    return torch.where(scale > 0, scale.clamp(min=least), 0.0)
