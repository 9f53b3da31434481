"""Weighted averages of models."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.errors import InputError
from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import weighted
from evomerge.params import Flag, PerModel, Real, Shared


@merge_method(
    base="none",
    paper="https://arxiv.org/abs/2203.05482",
    by_default="uniform",
    smooth=("weight",),
    by_row=True,
)
def linear(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    normalize: Annotated[bool, Shared(Flag(True), searched=False)],
) -> Entrywise:
    """Average the models, each with its weight.

        merged = sum_i weight_i W_i / sum_i weight_i

    Args:
        operands: the models. The base is one of them only if it is listed.
        weight: coefficient of the model; may be negative in a recipe.
        normalize: divide by the sum of the weights.

    Returns:
        The merge, entry by entry.

    Raises:
        InputError: normalised weights sum to 0.

    Paper: Wortsman et al. 2022, Model soups; mergekit ``linear``.

    Deviations: mergekit divides by zero where the weights sum to 0.
    """
    total = float(weight.sum()) if normalize else 1.0
    if abs(total) < 1e-8:
        raise InputError(
            f"linear: weights {weight.tolist()} sum to 0, so their average does not exist; "
            "change a weight, or set normalize: false"
        )
    return entrywise(weighted, operands.weights(weight), 1 / total, of="tensors")
