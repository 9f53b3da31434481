"""NearSwap: take from a model what lies near the base."""

from __future__ import annotations

from typing import Annotated

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.operands import Operands
from evomerge.params import Real, Shared


@merge_method(
    base="required",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    max_models=1,
)
def nearswap(
    operands: Operands,
    t: Annotated[float, Shared(Real(1e-5, 1e-2, default=1e-3, scale="log", valid=(0, 1e6)))],
) -> Entrywise:
    """Move each entry of the base towards the model, by ``t`` at most.

        merged = base + clip(delta, -t, t)

    Args:
        operands: the one source and the base.
        t: farthest that an entry moves, in the unit of the weights.

    Returns:
        The merge, entry by entry.

    Paper: alchemonaut 2024; mergekit ``nearswap``, written as an interpolation with weight
    ``clip(t / |delta|, 0, 1)``.

    Deviations: mergekit divides by at least 1e-6, so for a ``t`` below that it moves the smallest
    deltas less than ``t`` allows.
    """
    return entrywise(_clipped, -t, t)


def _clipped(deltas: Numbers, low: Number, high: Number) -> Number:
    d = deltas[0]
    return where(d > high, high, where(d < low, low, d))
