"""Spherical interpolation."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise
from evomerge.methods.kernel.geometry import BLOCK
from evomerge.methods.kernel.leaves import Entries
from evomerge.methods.kernel.operands import Operands
from evomerge.params import Real, Shared

COLLINEAR = 0.9995  # |cosine| above which the arc is taken for a line


@merge_method(
    base="required",
    paper="https://doi.org/10.1145/325334.325242",
    max_models=1,
    smooth=("t",),
)
def slerp(
    operands: Operands,
    t: Annotated[float, Shared(Real(0, 1, default=0.5, valid=(0, 1)))],
) -> Entrywise:
    """Go from the base to one model along the arc between them.

        theta  = angle(base, W)                                         each as one long vector
        merged = (sin((1 - t) theta) base + sin(t theta) W) / sin theta

    Nearly parallel or antiparallel tensors (``|cos theta| > 0.9995``) are interpolated linearly, as
    fine-tunes of the base nearly always are. The tensors themselves are combined, not their
    directions, so the norm is not interpolated. A zero tensor counts as orthogonal.

    Args:
        operands: the one model, and the base as the first endpoint.
        t: position on the arc: 0 is the base, 1 the model.

    Returns:
        The merge, entry by entry.

    Paper: Shoemake 1985, Animating rotation with quaternion curves; mergekit ``slerp``.

    Deviations: the angle is computed in float64.
    """
    start, end = operands.base, operands.tensors[0]
    assert start is not None
    cosine = operands.facts.get("endpoints' cosine", lambda: _cosine(start, end))
    first, second = 1 - t, t
    if abs(cosine) <= COLLINEAR:
        theta = math.acos(cosine)
        first, second = (math.sin(x * theta) / math.sin(theta) for x in (first, second))
    return entrywise(_blend, Entries(start), first, second, of="tensors")


def _blend(values: Numbers, base: Number, first: Number, second: Number) -> Number:
    return base * first + values[0] * second


def _cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors; 0 if one of them vanishes."""
    dot, norms = 0.0, [0.0, 0.0]
    for x, y in zip(torch.split(a.flatten(), BLOCK), torch.split(b.flatten(), BLOCK)):
        x, y = x.double(), y.double()
        dot += float(x @ y)
        norms = [norms[0] + float(x @ x), norms[1] + float(y @ y)]
    if min(norms) < 1e-16:
        return 0.0
    return max(-1.0, min(1.0, dot / math.sqrt(norms[0]) / math.sqrt(norms[1])))
