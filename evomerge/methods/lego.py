"""LoRA-LEGO: the ranks of all adapters, clustered, each cluster a rank of the merge."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.factors import Factors, concatenated
from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions, weighted
from evomerge.params import Choice, PerModel, Real, Shared

ROUNDS = 100  # of k-means, at most


@merge_method(base="required", paper="https://arxiv.org/abs/2409.16167", smooth=("lambda",))
def lego(
    operands: Operands,
    factors: tuple[Factors, ...] | None,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    share: Annotated[float, Shared(Real(0.1, 1, default=0.5, valid=(0, 1)))],
    reweight: Annotated[
        str, Shared(Choice(("both", "norm", "none"), default="both"), searched=False)
    ],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1, valid=(0, 100)), searched=False)],
) -> Entrywise | Factors:
    """Take adapters apart into ranks, cluster these, and build an adapter of the clusters' means.

        units   = (A_i[k], B_i[:, k]) of every model i and rank k, R of them; i's times weight_i
        means   = the centroids of K = share R clusters of them (k-means), each as long as its members are
                  on average (norm)
        merged  = base + lambda sqrt(R / K) sum_c B_c A_c            (both; without sqrt: norm, none)

    K = R is the exact sum of the deltas. What is not held in factors by all models is averaged:
    base + sum_i weight_i delta_i / models.

    Args:
        operands: the sources and the base.
        factors: B (left) and A (right) of each source's delta.
        weight: coefficient of the model's delta.
        share: rank of the merge, as a share of the sum of the sources' ranks; at least rank 1.
        reweight: whether means are made as long as their members (``norm``), and outputs as large as those
            of all units (``both``), or neither (``none``).
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.

    Returns:
        The merged factors, of rank K.

    Paper: Zhao et al. 2024, Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to Extremes
    Through Rank-Wise Clustering.

    Deviations: the paper rescales outputs to those of one adapter of rank r, by sqrt(r / K); here to those
    of the sum of all, so that K = R is that sum: lambda = 1 / sqrt(models) is the paper's. K-means starts
    from units that are far from each other (the longest first, then always the one farthest from those
    chosen), not from random ones, so that neither seed nor order of the models matter. Scales of adapters (alpha / r)
    are part of their factors, half of it in each: the same where they are equal.
    """
    weights = fractions(weight)
    if factors is None:
        return entrywise(weighted, weights, 1 / len(operands))
    parts = [each.balanced(w) for each, w in zip(factors, weights, strict=True)]
    whole = concatenated(parts)
    if whole.rank == 0:
        return whole
    units = torch.cat([whole.left.T, whole.right], 1)
    count = min(max(1, round(share * len(units))), len(units))
    clusters = _clusters(units, count)
    means = torch.stack([_mean(units[clusters == c], reweight != "none") for c in range(count)])
    scale = lambda_ * (math.sqrt(len(units) / count) if reweight == "both" else 1.0)
    rows = whole.left.shape[0]
    return Factors(means[:, :rows].T * scale, means[:, rows:])


def _clusters(units: Float[Tensor, "units size"], count: int) -> Tensor:
    """The number of the cluster of each unit [units]: none is empty."""
    if count == len(units):
        return torch.arange(count, device=units.device)
    squares = units.square().sum(1)
    chosen = [int(squares.argmax())]
    distance = _distances(units, units[chosen])[:, 0]
    while len(chosen) < count:
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, _distances(units, units[chosen[-1:]])[:, 0])
    found = _nearest(units, units[chosen], chosen)
    for _ in range(ROUNDS):
        centres = torch.stack([units[found == c].mean(0) for c in range(count)])
        distances = _distances(units, centres)
        moved = distances.argmin(1)
        # a cluster that all left keeps the one that was closest to it
        for c in range(count):
            if not (moved == c).any():
                moved[distances[:, c].argmin()] = c
        if torch.equal(moved, found) or len(set(moved.tolist())) < count:
            break
        found = moved
    return found


def _nearest(units: Tensor, centres: Tensor, chosen: list[int]) -> Tensor:
    """The nearest centre of each unit; a unit that is one has itself, even where another is as near."""
    found = _distances(units, centres).argmin(1)
    found[chosen] = torch.arange(len(chosen), device=units.device)
    return found


def _distances(units: Tensor, centres: Tensor) -> Float[Tensor, "units centres"]:
    """Squares of distances, by differences: those of equal units are 0."""
    return torch.stack([(units - centre).square().sum(1) for centre in centres], 1)


def _mean(members: Float[Tensor, "members size"], reweight: bool) -> Float[Tensor, " size"]:
    """The centroid, as long as its members are on average if asked."""
    mean = members.mean(0)
    length = float(torch.linalg.vector_norm(mean))
    if not reweight or length == 0:
        return mean
    return mean * (float(torch.linalg.vector_norm(members, dim=1).mean()) / length)
