"""MagMax: of all deltas the largest."""

from __future__ import annotations

from typing import Annotated

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.operands import Operands
from evomerge.params import Real, Shared


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2407.06322",
    exempt={"order": "of deltas that differ in sign alone the later model's is taken"},
)
def magmax(
    operands: Operands,
    lambda_: Annotated[float, Shared(Real(0.3, 1.2, default=1, valid=(-100, 100)))],
) -> Entrywise:
    """Take each entry from the delta that is largest there.

        merged = base + lambda delta_m,  m = argmax_i |delta_i|         per entry

    Of equal magnitudes the later model's is taken.

    Args:
        operands: the sources and the base.
        lambda_: scale of the merged delta.

    Returns:
        The merge, entry by entry.

    Paper: Marczak et al. 2024, MagMax: Leveraging Model Merging for Seamless Continual Learning,
    which uses a scale of 0.5.

    Deviations: none.
    """
    return entrywise(_largest, lambda_)


def _largest(deltas: Numbers, scale: Number) -> Number:
    chosen = 0.0
    for d in deltas:
        chosen = where(abs(d) >= abs(chosen), d, chosen)
    return chosen * scale
