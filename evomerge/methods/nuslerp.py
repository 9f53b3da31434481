"""NuSLERP: spherical interpolation of two models, or of their deltas."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.geometry import norms_and_cosines, origin
from evomerge.methods.kernel.leaves import Entries, Leaf
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import weighted
from evomerge.params import Flag, PerModel, Real, Shared


@merge_method(
    base="optional",
    paper="https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md",
    min_models=2,
    max_models=2,
    copies=2,
)
def nuslerp(
    operands: Operands,
    weight: Annotated[Float[Tensor, " 2"], PerModel(Real(0, 2, default=1))],
    nuslerp_flatten: Annotated[bool, Shared(Flag(True), searched=False)],
    nuslerp_row_wise: Annotated[bool, Shared(Flag(False), searched=False)],
    tolerance: Annotated[
        float, Shared(Real(1e-8, 1e-4, default=1e-6, scale="log", valid=(0, 1)), searched=False)
    ],
) -> Entrywise:
    """Go from one model to the other along the arc between them, around the base if there is one.

        a, b   = W_1 - base, W_2 - base                     (W_1, W_2 themselves without a base)
        t      = weight_2 / (weight_1 + weight_2)
        theta  = angle(a, b)
        merged = base + (sin((1 - t) theta) a + sin(t theta) b) / sin theta

    Vectors that are collinear, ``1 - cos^2 theta <= tolerance``, are interpolated linearly. A zero
    vector counts as orthogonal.

    Args:
        operands: the two models, and the base that the arc bends around, if any.
        weight: share of the model; only the ratio counts, equal shares where they sum to 0.
        nuslerp_flatten: the tensor is one vector, with one angle.
        nuslerp_row_wise: if not flattened, vectors run along the first axis, not the last.
        tolerance: how far from collinear, in ``1 - cos^2``, the arc is still taken for a line.

    Returns:
        The merge, entry by entry.

    Paper: none; mergekit ``nuslerp``.

    Deviations: mergekit's tolerance is 1e-16, which float32 meets by accident only, so that nearly
    opposite vectors give huge values (``tolerance: 1e-16`` asks for that). Lengths and angles are
    computed in float64, without mergekit's lower bound of 1e-7 on the length.
    """
    axis = None if nuslerp_flatten else 0 if nuslerp_row_wise else -1
    total = float(weight.sum())
    t = float(weight[1]) / total if abs(total) > 1e-6 else 0.5
    _, cosines = norms_and_cosines(operands, axis)
    ends = _arc(cosines[..., 0, 1], t, tolerance)
    weights = [_leaf(end, axis, operands.shape) for end in ends]
    return entrywise(weighted, weights, 1.0, of=origin(operands))


def _arc(cosine: Tensor, t: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """Coefficients of the two ends of each arc."""
    theta = cosine.acos()
    line = 1 - cosine.square() <= tolerance
    first = torch.where(line, 1 - t, ((1 - t) * theta).sin() / theta.sin())
    second = torch.where(line, t, (t * theta).sin() / theta.sin())
    return first, second


def _leaf(coefficient: Tensor, axis: int | None, shape: torch.Size) -> Leaf:
    """One coefficient for the tensor, or those of its vectors for each of their entries."""
    if axis is None or not shape:
        return float(coefficient)
    return Entries(coefficient.float().unsqueeze(axis).expand(shape).contiguous())
