"""One model as it is."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.params import Real, Shared


@merge_method(
    base="none",
    elementwise=True,
    paper="https://arxiv.org/abs/2403.13257",
    max_models=1,
)
def passthrough(
    tensors: Float[Tensor, " 1 *shape"],
    scale: Annotated[float | None, Shared(Real(0.8, 1.2, default=1, optional=True))],
) -> Float[Tensor, "*shape"]:
    """Take one model's tensor, scaled if asked.

        merged = scale W

    Args:
        tensors: the one model [1, *shape].
        scale: factor; null is 1. Scaling a block's output projections by 0 takes the block out.

    Returns:
        The merged tensor [*shape].

    Paper: Goddard et al. 2024, Arcee's MergeKit; mergekit ``passthrough``.

    Deviations: none.
    """
    return tensors[0] * (1.0 if scale is None else scale)
