"""Task arithmetic whose deltas are shaken along their singular directions: CycleQD's mutation as a recipe."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.spectral import (
    is_matrix,
    merge_matrix,
    merge_other,
    noise_of,
    one_thread,
    triples,
)
from evomerge.params import Integer, PerModel, Real, Shared


@merge_method(
    base="required", paper="https://arxiv.org/abs/2410.14735", smooth=("weight", "spread"), copies=5
)
def svd_jitter(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    spread: Annotated[Float[Tensor, " models"], PerModel(Real(0, 0.5, default=0.1, valid=(-2, 2)))],
    draw: Annotated[int, Shared(Integer(0, 1023, default=0))],
) -> Entrywise:
    """Strengthen each singular direction of each delta by a share drawn for it, and add up with weights.

        U_i diag(s_i) V_i' = delta_i
        merged = base + sum_i weight_i (delta_i + spread_i U_i diag(u_i s_i) V_i'),    u_i in [0, 1), one a direction

    A tensor that is no matrix takes the weighted sum of the deltas. With a spread of 0 it is task arithmetic. Two
    values of ``draw`` shake independently: searched, it is a step in a random direction of the parents' own
    subspace, which no weight can take.

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta.
        spread: the most that a direction of the model's delta grows, as a part of itself.
        draw: which of the draws of the recipe's seed.

    Returns:
        The merged delta.

    Paper: Kuroki et al. 2024, Agent Skill Acquisition for Large Language Models via CycleQD (the mutation).

    Deviations: the paper shakes one expert, chosen at random, once a generation, and its children inherit the
    sum of what was drawn; here every source is shaken by its own spread, and a child by its own draw only.
    The draws are keyed by seed, draw, tensor and model.
    """
    weights = weight.tolist()
    spreads = spread.tolist()
    if not is_matrix(operands) or not any(spreads):
        return merge_other(weights)
    return merge_matrix(_shaken(operands, weights, spreads, draw), 1.0)


@one_thread
def _shaken(
    operands: Operands, weights: list[float], spreads: list[float], draw: int
) -> Float[Tensor, "rows columns"]:
    """The merged delta, float32."""
    total = torch.zeros(operands.rows, operands.columns, device=operands.device)
    for index, (weight, spread) in enumerate(zip(weights, spreads, strict=True)):
        total += weight * operands.delta(index)
        if weight and spread:
            left, values, right = _triples(operands, index)
            drawn = operands.draws(index, draw, len(values))
            total += (left * (drawn * values * (weight * spread))) @ right.mT
    return total


def _triples(operands: Operands, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular triples of a delta, float32."""

    def made() -> tuple[Tensor, Tensor, Tensor]:
        delta = operands.delta(index)
        left, values, right = triples(delta, noise_of(operands, delta[None]), "numerical")
        return left.float(), values.float(), right.float()

    return operands.facts.get("singular triples", made, of=operands.names[index])
