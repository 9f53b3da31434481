"""Twin-Merging with fixed router weights."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.tensorwise import trim, weighted_sum
from evomerge.methods.kernel.weights import weight_total
from evomerge.params import Choice, Flag, PerModel, Real, Shared


@merge_method(base="required", paper="https://arxiv.org/abs/2406.15479", copies=4)
def twin(
    deltas: Float[Tensor, " models *shape"],
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    scaling: Annotated[float, Shared(Real(0, 1, default=0.3))],
    mask_rate: Annotated[float, Shared(Real(0.5, 0.95, default=0.8, valid=(0, 1)))],
    mask_strategy: Annotated[
        str, Shared(Choice(("magnitude", "svd"), default="magnitude"), searched=False)
    ],
    normalize: Annotated[bool, Shared(Flag(True), searched=False)],
) -> Float[Tensor, "*shape"]:
    """Add up the deltas as shared knowledge, then add what each model knows beyond that, sparsely.

        shared  = scaling sum_j delta_j
        twin_i  = sparsify(delta_i - shared)
        merged  = base + shared + sum_i weight_i twin_i / sum_i weight_i

    ``magnitude`` keeps the int((1 - mask_rate) n) largest of n entries, at least one; ``svd`` keeps
    the int((1 - mask_rate) r) largest of r singular values. Vectors are kept whole.

    Args:
        deltas: sources minus base [models, *shape].
        weight: router weight of the model.
        scaling: coefficient of the deltas in the shared part.
        mask_rate: fraction of entries or singular values that a twin loses; 0 keeps it whole.
        mask_strategy: what a twin loses: entries (``magnitude``) or singular values (``svd``).
        normalize: divide by the sum of the router weights, unless that is 0.

    Returns:
        The merged delta [*shape].

    Paper: Lu et al. 2024, Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging.

    Deviations: the router is fixed; the paper computes its weights, a softmax, for each input. Its
    code stops where ``magnitude`` would keep nothing. Entries that tie at the cut stay in flat
    order. A tensor of more than two axes has the singular values of [out, rest].
    """
    shared = weighted_sum(deltas, torch.full_like(weight, scaling))
    twins = _sparsify(deltas - shared, 1 - mask_rate, mask_strategy)
    return shared + weighted_sum(twins, weight) / weight_total(weight, normalize)


def _sparsify(residuals: Tensor, density: float, strategy: str) -> Tensor:
    if density >= 1 or residuals[0].ndim < 2:
        return residuals
    if strategy == "magnitude":
        return trim(residuals, torch.full((len(residuals),), density, dtype=torch.float64))
    return torch.stack([_low_rank(residual, density) for residual in residuals])


def _low_rank(tensor: Tensor, density: float) -> Tensor:
    matrix = tensor.flatten(1)
    rank = int(density * min(matrix.shape))
    if rank == 0 or not matrix.isfinite().all():
        return tensor * 0  # a NaN stays one
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept: Tensor = left[:, :rank] * values[:rank] @ right[:rank]
    return kept.reshape(tensor.shape)
