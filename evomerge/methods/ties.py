"""TIES-Merging."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods._parts import elect, restore_norm, trim
from evomerge.params import Flag, PerModel, Real, Shared


@merge_method(base="required", elementwise=False, paper="https://arxiv.org/abs/2306.01708")
def ties(
    deltas: Float[Tensor, " models *shape"],
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    density: Annotated[
        Float[Tensor, " models"], PerModel(Real(0.05, 1, default=0.5, valid=(0, 1)))
    ],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1))],
    normalize: Annotated[bool, Shared(Flag(True), searched=False)],
    rescale: Annotated[bool, Shared(Flag(False), searched=False)],
) -> Float[Tensor, "*shape"]:
    """Trim each delta, elect a sign per entry, average the deltas that agree with it.

        kept_i  = the max(1, int(density_i n)) entries of delta_i of largest magnitude
        sign    = + where sum_i weight_i kept_i >= 0, else -
        agree   = {i: sign(weight_i kept_i) = sign}                     per entry
        merged  = base + lambda sum_agree weight_i kept_i / sum_agree weight_i

    Args:
        deltas: sources minus base [models, *shape].
        weight: coefficient of the model's delta, applied before the election.
        density: fraction of the model's entries kept, counted per tensor; 0 keeps none.
        lambda_: scale of the merged delta.
        normalize: divide by the summed weights of the models that agree.
        rescale: scale each trimmed delta back to its L1 norm.

    Returns:
        The merged delta [*shape].

    Paper: Yadav et al. 2023, TIES-Merging; mergekit ``ties``.

    Deviations: of entries that tie at the cut the lowest flat indices are kept, where mergekit
    leaves that to the sort; with ``rescale`` mergekit spares norms below 1e-7, here a norm of which
    less than 1e-7 is left. The paper trims the whole model at once, as the authors' code does.
    """
    kept = trim(deltas, density)
    if rescale:
        kept = restore_norm(kept, deltas)
    return elect(kept, weight, normalize) * lambda_
