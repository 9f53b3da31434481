"""One-bit task vectors."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.norms import mass
from evomerge.methods.kernel.operands import Operands
from evomerge.params import PerModel, Real, Shared


@merge_method(base="required", paper="https://arxiv.org/abs/2502.10743")
def sign1bit(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    lambda_: Annotated[float, Shared(Real(0, 2, default=1), searched=False)],
) -> Entrywise:
    """Add up the signs of the deltas, each with one magnitude per tensor.

        scale_i = mean |delta_i|                                        per tensor
        merged  = base + lambda sum_i weight_i scale_i sign(delta_i)

    The mean magnitude is the scale that comes nearest to the delta in L2. Since the scale is the
    tensor's own, groups of layers and roles choose which parts of a model are added.

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's one-bit delta.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.

    Returns:
        The merge, entry by entry.

    Paper: Liu et al. 2025, 1bit-Merging.

    Deviations: static. The paper compresses only the part of a model (attention or MLP) that holds
    less of its skill, and routes inputs between the models. An entry without change stays so.
    """
    size = max(1, operands.size)
    scales = [
        float(factor) * lambda_ * mass(operands, index) / size
        for index, factor in enumerate(weight)
    ]
    return entrywise(_signs, scales)


def _signs(deltas: Numbers, scales: Numbers) -> Number:
    total = 0.0
    for d, scale in zip(deltas, scales):
        total = total + where(d > 0.0, scale, where(d < 0.0, -scale, 0.0))
    return total
