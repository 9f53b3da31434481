"""TSV-Merge: task singular vectors."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Float64
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
from evomerge.params import Flag, PerModel, Real, Shared


@merge_method(base="required", paper="https://arxiv.org/abs/2412.00081", copies=8)
def tsvm(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1), searched=False)],
    outlier_reweight: Annotated[bool, Shared(Flag(False), searched=False)],
    adaptive_rank: Annotated[bool, Shared(Flag(False), searched=False)],
    rank: Annotated[str, RANK],
) -> Entrywise:
    """Keep each delta's leading singular triples, make them orthogonal across models, add up.

        U_i, s_i, V_i = the int(min(rows, columns) / models) leading triples of delta_i
        [P_1 .. P_N]  = polar([U_1 .. U_N]);  [Q_1 .. Q_N] = polar([V_1 .. V_N])
        merged        = base + lambda sum_i weight_i P_i diag(s_i) Q_i'

    where polar(A) is the nearest matrix with orthonormal columns. A tensor that is no matrix takes
    ``lambda mean_i weight_i delta_i``. Two options, after R-TSVM, work on matrices:

        outlier_reweight   weight_i is multiplied by N o_i / sum_j o_j, where o_i is the L1 norm of
                           the entries with |delta_i| > mean |delta_i| + 3 std |delta_i|
        adaptive_rank      model i keeps int(d_i min(rows, columns) / models) triples, at least one
                           of them, where d_i = |delta_i|_1^2 / (n |delta_i|_2^2) is 1 for entries
                           of one magnitude and near 0 for a delta of few entries

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's part.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        outlier_reweight: favour, per tensor, models with more of their change in outliers.
        adaptive_rank: keep fewer triples of deltas whose change is in few entries.
        rank: directions that take part: those that the deltas have (numerical) or all (full).

    Returns:
        The merged delta.

    Paper: Gargiulo et al. 2025, Task Singular Vectors: Reducing Task Interference in Model Merging;
    Yang et al. 2025, Mix Data or Merge Models? (R-TSVM).

    Deviations: TSV-Merge has no weights. Directions that a delta does not have, or that models
    share, make the authors' polar factor arbitrary (``rank: full``); here they are left out. R-TSVM
    has no public code: its options are defined here as stated, in its spirit.
    """
    facts = operands.facts
    if not is_matrix(operands):
        return merge_other([w * lambda_ / len(operands) for w in weight.tolist()])
    left, values, right, owner = facts.get(
        ("tsvm", adaptive_rank, rank), lambda: _factors(operands, adaptive_rank, rank)
    )
    if outlier_reweight:
        weight = weight * facts.get("tsvm outliers", lambda: _outlier_shares(operands))
    strengths = values * (weight * lambda_).to(values)[owner]
    return merge_matrix(_product(left * strengths, right), 1.0)


@one_thread
def _factors(
    operands: Operands, adaptive_rank: bool, rank: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Orthogonal factors P and Q, the singular values between them, and whose each one is."""
    deltas, parts = deltas_of(operands), []
    noise = noise_of(operands, deltas)
    for delta in deltas:
        left, values, right = triples(delta, noise, rank)
        count = min(operands.shape) // len(operands)
        if adaptive_rank:
            count = min(count, max(1, int(_fullness(delta) * count)))
        parts.append((left[:, :count], values[:count], right[:, :count]))
    owner = [torch.full((len(part[1]),), i) for i, part in enumerate(parts)]
    left, values, right = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
    left, right = polar(left, rank), polar(right, rank)
    return left.float(), values.float(), right.float(), torch.cat(owner).to(left.device)


@one_thread
def _product(left: Tensor, right: Tensor) -> Tensor:
    return left @ right.mT


def _fullness(delta: Tensor) -> float:
    """|x|_1^2 / (n |x|_2^2), 0 for a zero or broken delta, which has no triples anyway."""
    one, two = (float(torch.linalg.vector_norm(delta, p, dtype=torch.float64)) for p in (1, 2))
    return one**2 / (delta.numel() * two**2) if 0 < two < torch.inf else 0.0


@one_thread
def _outlier_shares(operands: Operands) -> Float64[Tensor, " models"]:
    norms = []
    for index in range(len(operands)):
        size = operands.delta(index).double().abs_()
        outliers = size > size.mean() + 3 * size.std(correction=0)
        norms.append((size * outliers).sum())
    found = torch.stack(norms).cpu()
    return found * (len(found) / found.sum()) if found.sum() > 0 else torch.ones_like(found)
