"""Task arithmetic."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods._parts import weight_total, weighted_sum
from evomerge.params import Flag, PerModel, Real, Shared


@merge_method(base="required", elementwise=True, paper="https://arxiv.org/abs/2212.04089")
def task_arithmetic(
    deltas: Float[Tensor, " models *shape"],
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1), searched=False)],
    normalize: Annotated[bool, Shared(Flag(False), searched=False)],
) -> Float[Tensor, "*shape"]:
    """Add up the models' deltas, each with its weight.

        merged = base + lambda sum_i weight_i delta_i        (/ sum_i weight_i if normalize)

    Args:
        deltas: sources minus base [models, *shape].
        weight: coefficient of the model's delta; may be negative in a recipe.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        normalize: divide by the sum of the weights, unless that is 0.

    Returns:
        The merged delta [*shape].

    Paper: Ilharco et al. 2023, Editing models with task arithmetic; mergekit ``task_arithmetic``.

    Deviations: none.
    """
    return weighted_sum(deltas, weight) * (lambda_ / weight_total(weight, normalize))
