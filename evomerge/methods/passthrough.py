"""One model as it is."""

from __future__ import annotations

from typing import Annotated

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import weighted
from evomerge.params import Real, Shared


@merge_method(
    base="none",
    paper="https://arxiv.org/abs/2403.13257",
    max_models=1,
)
def passthrough(
    operands: Operands,
    scale: Annotated[float | None, Shared(Real(0.8, 1.2, default=1, optional=True))],
) -> Entrywise:
    """Take one model's tensor, scaled if asked.

        merged = scale W

    Args:
        operands: the one model.
        scale: factor; null is 1. Scaling a block's output projections by 0 takes the block out.

    Returns:
        The merge, entry by entry.

    Paper: Goddard et al. 2024, Arcee's MergeKit; mergekit ``passthrough``.

    Deviations: none.
    """
    return entrywise(weighted, [1.0 if scale is None else scale], 1.0, of="tensors")
