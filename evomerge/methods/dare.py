"""DARE: drop delta entries at random and rescale the rest, then add up or elect signs."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods._parts import drop, elect, restore_norm, weight_total, weighted_sum
from evomerge.params import Choice, Flag, PerModel, Real, Shared

PAPER = "https://arxiv.org/abs/2311.03099"
WEIGHT = PerModel(Real(0, 2, default=1))
DENSITY = PerModel(Real(0.05, 1, default=0.5, valid=(0, 1)))
LAMBDA = Shared(Real(0, 2, default=1), searched=False)  # redundant with the weights
RESCALE = Shared(Choice((True, False, "density"), default=True), searched=False)


@merge_method(base="required", elementwise=False, paper=PAPER)
def dare_linear(
    deltas: Float[Tensor, " models *shape"],
    noise: Float[Tensor, " models *shape"],
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    lambda_: Annotated[float, LAMBDA],
    normalize: Annotated[bool, Shared(Flag(False), searched=False)],
    rescale: Annotated[bool | str, RESCALE],
) -> Float[Tensor, "*shape"]:
    """Drop entries of each delta at random, rescale the rest, add up with weights.

        kept_i = delta_i where noise_i < density_i, else 0; rescaled
        merged = base + lambda sum_i weight_i kept_i         (/ sum_i weight_i if normalize)

    Args:
        deltas: sources minus base [models, *shape].
        noise: uniforms in [0, 1) [models, *shape].
        weight: coefficient of the model's delta.
        density: probability that an entry of the model's delta is kept.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        normalize: divide by the sum of the weights, unless that is 0.
        rescale: true restores each delta's L1 norm, density divides it by its density, false
            leaves it.

    Returns:
        The merged delta [*shape].

    Paper: Yu et al. 2024, Language Models are Super Mario; mergekit ``dare_linear``. The authors
    divide by the density (``rescale: density``), which is unbiased; the default is mergekit's.

    Deviations: the mask is keyed by seed, tensor and model, not drawn from a global stream;
    mergekit spares norms below 1e-7, here a norm of which less than 1e-7 is left.
    """
    kept = _drop_and_rescale(deltas, noise, density, rescale)
    return weighted_sum(kept, weight) * (lambda_ / weight_total(weight, normalize))


@merge_method(base="required", elementwise=False, paper=PAPER)
def dare_ties(
    deltas: Float[Tensor, " models *shape"],
    noise: Float[Tensor, " models *shape"],
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    lambda_: Annotated[float, LAMBDA],
    normalize: Annotated[bool, Shared(Flag(False), searched=False)],
    rescale: Annotated[bool | str, RESCALE],
) -> Float[Tensor, "*shape"]:
    """Drop entries of each delta at random, rescale the rest, then elect signs as TIES does.

        kept_i = delta_i where noise_i < density_i, else 0; rescaled
        sign   = + where sum_i weight_i kept_i >= 0, else -
        agree  = {i: sign(weight_i kept_i) = sign}                      per entry
        merged = base + lambda sum_agree weight_i kept_i     (/ sum_agree weight_i if normalize)

    Args:
        deltas: sources minus base [models, *shape].
        noise: uniforms in [0, 1) [models, *shape].
        weight: coefficient of the model's delta, applied before the election.
        density: probability that an entry of the model's delta is kept.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        normalize: divide by the summed weights of the models that agree.
        rescale: true restores each delta's L1 norm, density divides it by its density, false
            leaves it.

    Returns:
        The merged delta [*shape].

    Paper: Yu et al. 2024, Language Models are Super Mario; Yadav et al. 2023, TIES-Merging;
    mergekit ``dare_ties``.

    Deviations: those of ``dare_linear``.
    """
    kept = _drop_and_rescale(deltas, noise, density, rescale)
    return elect(kept, weight, normalize) * lambda_


def _drop_and_rescale(
    deltas: Tensor, noise: Tensor, density: Tensor, rescale: bool | str
) -> Tensor:
    kept = drop(deltas, density, noise)
    if rescale == "density":
        # nothing survives density 0, so there is nothing to divide
        return torch.stack(
            [d / p if p > 0 else d for d, p in zip(kept, density.tolist(), strict=True)]
        )
    return restore_norm(kept, deltas) if rescale else kept
