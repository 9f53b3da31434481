"""Spherical interpolation."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.params import Real, Shared

COLLINEAR = 0.9995  # |cosine| above which the arc is taken for a line


@merge_method(
    base="required",
    elementwise=False,
    paper="https://doi.org/10.1145/325334.325242",
    max_models=1,
)
def slerp(
    tensors: Float[Tensor, " 1 *shape"],
    base: Float[Tensor, "*shape"],
    t: Annotated[float, Shared(Real(0, 1, default=0.5, valid=(0, 1)))],
) -> Float[Tensor, "*shape"]:
    """Go from the base to one model along the arc between them.

        theta  = angle(base, W)                                         each as one long vector
        merged = (sin((1 - t) theta) base + sin(t theta) W) / sin theta

    Nearly parallel or antiparallel tensors (``|cos theta| > 0.9995``) are interpolated linearly, as
    fine-tunes of the base nearly always are. The tensors themselves are combined, not their
    directions, so the norm is not interpolated. A zero tensor counts as orthogonal.

    Args:
        tensors: the one model [1, *shape].
        base: the first endpoint [*shape].
        t: position on the arc: 0 is the base, 1 the model.

    Returns:
        The merged tensor [*shape].

    Paper: Shoemake 1985, Animating rotation with quaternion curves; mergekit ``slerp``.

    Deviations: the angle is computed in float64.
    """
    cosine = _cosine(base, tensors[0])
    if abs(cosine) > COLLINEAR:
        return base * (1 - t) + tensors[0] * t
    theta = math.acos(cosine)
    return base * (math.sin((1 - t) * theta) / math.sin(theta)) + tensors[0] * (
        math.sin(t * theta) / math.sin(theta)
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors; 0 if one of them vanishes."""
    x, y = a.flatten().double(), b.flatten().double()
    norms = [float(torch.linalg.vector_norm(v)) for v in (x, y)]
    if min(norms) < 1e-8:
        return 0.0
    return max(-1.0, min(1.0, float(x @ y) / norms[0] / norms[1]))
