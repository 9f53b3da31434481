"""LM-Cocktail: average models by how well they do on a few examples."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions, weighted
from evomerge.params import PerModel, Real, Shared


@merge_method(base="none", paper="https://arxiv.org/abs/2311.13534", by_default="uniform")
def lm_cocktail(
    operands: Operands,
    loss: Annotated[Float[Tensor, " models"], PerModel(Real(0, 10, default=0), searched=False)],
    temperature: Annotated[float, Shared(Real(0.1, 10, default=5, scale="log", valid=(1e-6, 1e6)))],
) -> Entrywise:
    """Average the models with weights that fall with their losses.

        weight = softmax(-loss / temperature)                           over the models
        merged = sum_i weight_i W_i

    Args:
        operands: the models. The base is one of them only if it is listed.
        loss: the model's loss on a few examples of the target task; equal losses weigh equally.
        temperature: how little losses matter: towards 0 the best model, high values the average.

    Returns:
        The merge, entry by entry.

    Paper: Xiao et al. 2023, LM-Cocktail: Resilient Tuning of Language Models via Model Merging.

    Deviations: none.
    """
    weight = (-loss / temperature).softmax(0)
    return entrywise(weighted, fractions(weight), 1.0, of="tensors")
