"""Task arithmetic."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import weight_total, weighted
from evomerge.params import Flag, PerModel, Real, Shared


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2212.04089",
    smooth=("weight", "lambda"),
    by_row=True,
)
def task_arithmetic(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1), searched=False)],
    normalize: Annotated[bool, Shared(Flag(False), searched=False)],
) -> Entrywise:
    """Add up the models' deltas, each with its weight.

        merged = base + lambda sum_i weight_i delta_i        (/ sum_i weight_i if normalize)

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta; may be negative in a recipe.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        normalize: divide by the sum of the weights, unless that is 0.

    Returns:
        The merge, entry by entry.

    Paper: Ilharco et al. 2023, Editing models with task arithmetic; mergekit ``task_arithmetic``.

    Deviations: none.
    """
    total = weight_total(weight, normalize)
    return entrywise(weighted, operands.weights(weight), lambda_ / total)
