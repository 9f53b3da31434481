"""Isotropic merging: every direction of the merged delta gets the same strength."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.spectral import (
    RANK,
    deltas_of,
    is_matrix,
    merge_matrix,
    merge_other,
    noise_of,
    one_thread,
    polar,
    triples,
)
from evomerge.params import Real, Shared

PAPER = "https://arxiv.org/abs/2502.04959"
LAMBDA = Shared(Real(0.3, 2, default=1, valid=(-10, 10)))


@merge_method(base="required", paper=PAPER, copies=4)
def iso_c(
    operands: Operands,
    lambda_: Annotated[float, LAMBDA],
    rank: Annotated[str, RANK],
) -> Entrywise:
    """Add up the deltas and replace the singular values of the sum by their mean.

        U diag(s) V' = sum_i delta_i
        merged       = base + lambda mean(s) U V'

    A tensor that is no matrix takes the mean of the deltas, times lambda.

    Args:
        operands: the sources and the base.
        lambda_: scale of the merged delta.
        rank: directions that take part: those that the sum has (numerical) or all (full).

    Returns:
        The merged delta.

    Paper: Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging with Common and
    Task-Specific Subspaces.

    Deviations: the authors' code gives the mean singular value to all directions, also where the
    sum has none, as with LoRA parents: arbitrary ones of full strength (``rank: full``). Here these
    stay out of the result and of the mean. The code averages ``text_projection`` matrices of CLIP.
    """
    if not is_matrix(operands):
        return merge_other([lambda_ / len(operands)] * len(operands))
    flat = operands.facts.get(("iso_c", rank), lambda: _flattened(operands, rank))
    return merge_matrix(flat, lambda_)


@one_thread
def _flattened(operands: Operands, rank: str) -> Tensor:
    deltas = deltas_of(operands)
    left, values, right = triples(deltas.double().sum(0), noise_of(operands, deltas), rank)
    return _isotropic(left, values, right)


@merge_method(base="required", paper=PAPER, copies=9)
def iso_cts(
    operands: Operands,
    lambda_: Annotated[float, LAMBDA],
    common_space_fraction: Annotated[
        float, Shared(Real(0.3, 1, default=0.8, valid=(0, 1)), searched=False)
    ],
    rank: Annotated[str, RANK],
) -> Entrywise:
    """``iso_c`` with the weakest directions of the sum given to the models, an equal share each.

        r       = min(rows, columns);  c = r - round((r - int(fraction r)) / models) models
        U, s, V = the c leading singular triples of sum_i delta_i
        U_i, s_i, V_i = the (r - c) / models leading triples of (I - U U') delta_i
        merged  = base + lambda mean(s_1, .., s) polar([U_1 .. U]) polar([V_1 .. V])'

    where polar(A) is the nearest matrix with orthonormal columns. A tensor that is no matrix takes
    the mean of the deltas, times lambda.

    Args:
        operands: the sources and the base.
        lambda_: scale of the merged delta.
        common_space_fraction: share of the directions taken from the sum; not searched by itself,
            since each value costs one decomposition per model.
        rank: directions that take part: those that the deltas have (numerical) or all (full).

    Returns:
        The merged delta.

    Paper: Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging with Common and
    Task-Specific Subspaces.

    Deviations: those of ``iso_c``. A rounding that would leave fewer than no common directions,
    which the authors' code does not catch, leaves none and the models fewer.
    """
    models, directions = len(operands), min(operands.shape, default=0)
    if not is_matrix(operands):
        return merge_other([lambda_ / models] * models)
    # Python's round takes halves to the even number, as the authors' code does
    shared = int(directions * common_space_fraction)
    own = min(round((directions - shared) / models), directions // models)
    flat = operands.facts.get(("iso_cts", own, rank), lambda: _with_own_spaces(operands, own, rank))
    return merge_matrix(flat, lambda_)


@one_thread
def _with_own_spaces(operands: Operands, own: int, rank: str) -> Tensor:
    """The flattened sum where each model contributes ``own`` directions."""
    deltas = deltas_of(operands)
    noise = noise_of(operands, deltas)
    left, values, right = triples(deltas.double().sum(0), noise, rank)
    common = min(operands.shape) - own * len(deltas)
    shared = left[:, :common], values[:common], right[:, :common]
    parts = []
    for delta in deltas if own else ():
        rest = delta.double()
        rest = rest - shared[0] @ (shared[0].mT @ rest)
        left, values, right = triples(rest, noise, rank)
        parts.append((left[:, :own], values[:own], right[:, :own]))
    lefts, strengths, rights = zip(*parts, shared, strict=True)
    left, right = (polar(torch.cat(stack, dim=1), rank) for stack in (lefts, rights))
    return _isotropic(left, torch.cat(strengths), right)


def _isotropic(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    strength = values.mean() if values.numel() else 0.0
    return ((left * strength) @ right.mT).float()
