"""OPCM: continual merging by orthogonal projection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Annotated

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order import EXEMPT, ORDER, sequence
from evomerge.methods.kernel.spectral import (
    RANK,
    is_matrix,
    merge_matrix,
    noise_within,
    one_thread,
    triples,
)
from evomerge.params import Real, Shared


def _squares(
    operands: Operands, role: str, alpha: float, order: Float[Tensor, " models"], rank: str
) -> Float64[Tensor, " models+1"]:
    """Survey of the model: the squared norms of all deltas, and that of their running sum."""
    total = _running_sum(operands, role, alpha, order, rank)
    return torch.cat([_squares_of(operands), _square_norms([total])])


def _squares_of(operands: Operands) -> Float64[Tensor, " models"]:
    """The squared norms of the deltas."""
    squares: Tensor = operands.facts.get("opcm squares", lambda: _square_norms(_deltas(operands)))
    return squares


def _deltas(operands: Operands) -> Iterator[Float[Tensor, "rows columns"]]:
    """One after the other: however many models there are, one delta lies in memory."""
    return (operands.delta(index) for index in range(len(operands)))


@one_thread
def _square_norms(
    tensors: Iterable[Float[Tensor, "rows columns"]],
) -> Float64[Tensor, " count"]:
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return torch.stack(norms).square().cpu()


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2501.09522",
    surveys=(_squares,),
    exempt=EXEMPT,
    copies=8,
)
def opcm(
    operands: Operands,
    role: str,
    totals: tuple[Tensor, ...],
    alpha: Annotated[float, Shared(Real(0, 0.95, default=0.5, valid=(0, 1)))],
    order: Annotated[Float[Tensor, " models"], ORDER],
    rank: Annotated[str, RANK],
) -> Entrywise:
    """Add the deltas one by one, each without the part that lies where the sum already is strong.

        T_1      = delta_1
        U, s, V  = the singular triples of T_k;  c = the most with sum_{j <= c} s_j <= alpha sum s
        P        = U' delta_{k+1} V with its diagonal and its leading c x c block set to 0
        T_{k+1}  = T_k + U P V'
        merged   = base + T_N mean_k |delta_k| / |T_N|          norms over the whole model

    Only matrices are projected; embeddings and vectors add up. Since U and V are never completed to
    square matrices, ``U P V'`` is computed as ``delta`` less the removed part.

    Args:
        operands: the sources and the base.
        role: ``embed`` is not projected.
        totals: squared norms of the deltas and of the sum over the whole model.
        alpha: share of the singular values whose directions are closed to later models.
        order: models are taken by ascending value, equals in the order given.
        rank: directions of the sum that count: those that it has (numerical) or all (full).

    Returns:
        The merged delta.

    Paper: Tang et al. 2025, Merging Models on the Fly Without Retraining: A Sequential Approach to
    Scalable Continual Model Merging.

    Deviations: the authors' code rescales after each model, which changes the final scale alone.
    Where the sum lacks directions it takes arbitrary ones and clears their diagonal too (``rank:
    full``); a sum of zero ends in a division by zero, here nothing is removed. Their alpha of 1
    closes no directions, here all.
    """
    *squares, whole = totals[0].tolist()
    mean = sum(square**0.5 for square in squares) / len(squares)
    total = _running_sum(operands, role, alpha, order, rank)
    return merge_matrix(total, mean / whole**0.5 if whole else 1.0)


def _running_sum(
    operands: Operands, role: str, alpha: float, order: Float[Tensor, " models"], rank: str
) -> Float[Tensor, "rows columns"]:
    """``T_N``; where facts are kept, computed once for the survey and the merge."""
    models = sequence(order)
    if role == "embed" or not is_matrix(operands):
        return operands.facts.get("opcm sum", lambda: reduce(torch.add, _deltas(operands)))
    total: Tensor = operands.facts.get(
        ("opcm", models, alpha, rank), lambda: _add_up(operands, alpha, models, rank)
    )
    return total


@one_thread
def _add_up(operands: Operands, alpha: float, models: tuple[int, ...], rank: str) -> Tensor:
    noise = noise_within(operands, len(models), float(_squares_of(operands).sum()))
    first = models[0]
    total = operands.delta(first).double()
    for place, model in enumerate(models[1:]):
        if place == 0:  # the one decomposition that does not depend on alpha; kept in float32
            left, values, right = operands.facts.get(
                ("opcm first", first, rank),
                lambda: tuple(each.float() for each in triples(operands.delta(first), noise, rank)),
            )
        else:
            left, values, right = triples(total, noise, rank)
        shares = values.double().cumsum(0)
        split = int((shares <= alpha * shares[-1:]).sum())
        delta = operands.delta(model).double()
        total = total + (delta - _removed(delta, left.double(), right.double(), split))
    return total.float()


def _removed(delta: Tensor, left: Tensor, right: Tensor, split: int) -> Tensor:
    """What ``delta`` has in the leading ``split`` directions, and on the diagonal of the others."""
    closed, facing = left[:, :split], right[:, :split]
    block = closed @ (closed.mT @ delta @ facing) @ facing.mT
    left, right = left[:, split:], right[:, split:]
    diagonal = (left * (delta @ right)).sum(0)
    return block + left * diagonal @ right.mT
