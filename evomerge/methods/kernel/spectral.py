"""Singular values and vectors, and what spectral kernels make of them.

Computed in float64 by one thread, so that a result depends neither on how many threads there are
nor on the arbitrary signs of singular vectors. Where only the directions that a matrix really has
are wanted, they come from the eigenvectors of its smaller Gram matrix: in float64 as exact as a
float32 decomposition of the matrix itself, and several times faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise
from evomerge.methods.kernel.leaves import Entries
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import weighted
from evomerge.params import Choice, Shared

P = ParamSpec("P")
T = TypeVar("T")

Triples = tuple[
    Float64[Tensor, "rows count"], Float64[Tensor, " count"], Float64[Tensor, "columns count"]
]

# The same parameter of every spectral method.
RANK = Shared(Choice(("numerical", "full"), default="numerical"), searched=False)

ROUNDING = 2.0**-23  # distance of float32 numbers, relative


def one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Run the function with one thread: matrix products of several round differently."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        threads = torch.get_num_threads()
        if threads == 1:
            return function(*args, **kwargs)
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    return alone


def is_matrix(operands: Operands) -> bool:
    """Whether there is something to decompose."""
    return len(operands.shape) == 2 and operands.size > 0


def deltas_of(operands: Operands) -> Float[Tensor, "models rows columns"]:
    """Sources minus base."""
    return torch.stack([operands.delta(index) for index in range(len(operands))])


def merge_matrix(delta: Float[Tensor, "rows columns"], scale: float) -> Entrywise:
    """The merge whose delta is a given matrix, times ``scale``."""
    return entrywise(_scaled, Entries(delta), scale)


def merge_other(weight: Sequence[float]) -> Entrywise:
    """The weighted sum, for tensors that are no matrices."""
    return entrywise(weighted, list(weight), 1.0)


def _scaled(deltas: Numbers, merged: Number, scale: Number) -> Number:
    return merged * scale


def noise_of(operands: Operands, deltas: Float[Tensor, "models rows columns"]) -> float:
    """Largest singular value that rounding alone gives to a sum of the deltas.

    A float32 number w is stored with an error of up to ``2^-24 |w|``, and a matrix of independent
    errors e has no singular value above ``(sqrt(rows) + sqrt(columns)) e``. Twice that, to be on the
    safe side, of errors added up over the models.
    """
    return noise_within(operands, len(deltas), _length(deltas) ** 2)


def noise_within(operands: Operands, count: int, squares: float) -> float:
    """``noise_of``, of ``count`` deltas whose squared entries sum to ``squares``."""
    assert operands.base is not None
    entry = ((count * _length(operands.base) ** 2 + squares) / operands.size) ** 0.5
    return float(ROUNDING * (operands.rows**0.5 + operands.columns**0.5) * entry)


def _length(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.float(), dtype=torch.float64))


def triples(matrix: Float[Tensor, "rows columns"], noise: float, rank: str) -> Triples:
    """Singular triples in descending order, float64.

    Args:
        matrix: of any floating dtype; a broken one has no directions.
        noise: what rounding may have put into any direction.
        rank: ``numerical`` leaves out directions of at most ``noise``, ``full`` none: there
            directions that the matrix does not have are arbitrary.
    """
    wide = matrix.double()
    if not wide.isfinite().all():
        return wide[:, :0], wide.new_empty(0), wide.mT[:, :0]
    if rank == "full":
        left, values, right = torch.linalg.svd(wide, full_matrices=False)
        return left, values, right.mT
    if wide.shape[0] < wide.shape[1]:
        right, values, left = triples(matrix.mT, noise, rank)
        return left, values, right
    squares, right = torch.linalg.eigh(wide.mT @ wide)
    squares, right = squares.flip(0).clamp_(min=0), right.flip(1)
    # squaring halves the digits: values much below 1e-6 of the largest are rounding
    limit = max(noise, 1e-6 * float(squares[0]) ** 0.5)
    count = int((squares.sqrt() > limit).sum())
    values, right = squares[:count].sqrt(), right[:, :count]
    return wide @ right / values, values, right


def polar(stack: Float64[Tensor, "rows count"], rank: str) -> Float64[Tensor, "rows count"]:
    """The nearest matrix with orthonormal columns: ``stack (stack' stack)^(-1/2)``.

    ``numerical`` leaves out the directions in which the stack is shorter than 1e-6 of its longest:
    there the factor is ill-conditioned, as it is for columns that several models have in common.
    """
    if rank == "full":
        left, _, right = torch.linalg.svd(stack, full_matrices=False)
        whole: Tensor = left @ right
        return whole
    squares, vectors = torch.linalg.eigh(stack.mT @ stack)
    kept = squares > 1e-12 * squares[-1:]  # ascending
    vectors, squares = vectors[:, kept], squares[kept]
    nearest: Tensor = stack @ (vectors / squares.sqrt() @ vectors.mT)
    return nearest
