"""Spherical average of many models."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.errors import InputError
from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.geometry import norms_and_cosines, origin
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions, weighted
from evomerge.params import Flag, PerModel, Real, Shared

VANISHING = 1e-6  # length of a mean of unit vectors below which it has no direction


@merge_method(
    base="optional",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    min_models=2,
    copies=2,
)
def multislerp(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    normalize_weights: Annotated[bool, Shared(Flag(True), searched=False)],
) -> Entrywise:
    """Average directions and lengths apart, around the base if there is one.

        v_i    = W_i - base, u_i = v_i / |v_i|              (v_i = W_i without a base)
        m      = sum_i weight_i u_i
        merged = base + m / |m| sum_i weight_i |v_i|

    each tensor as one long vector. The published form goes on to average in the tangent plane at
    ``m / |m|``; that average is the part of ``m`` orthogonal to ``m``, which is zero.

    Where the directions cancel (``|m|`` below 1e-6 of the summed weights) there is no direction to
    go in, and the result is ``base + sum_i weight_i v_i``.

    Args:
        operands: the models, and the base that directions are seen from, if any.
        weight: share of the model, in direction and in length.
        normalize_weights: divide the weights by their sum.

    Returns:
        The merge, entry by entry.

    Raises:
        InputError: weights to be normalised sum to 0.

    Paper: Goddard 2025; mergekit ``multislerp``.

    Deviations: mergekit falls back to the weighted sum for two models only and stops at three or
    more; its ``eps`` of 1e-8, added to every length, is not needed and not there.
    """
    total = float(weight.sum()) if normalize_weights else 1.0
    if abs(total) < 1e-8:
        raise InputError(
            f"multislerp: weights {weight.tolist()} sum to 0, so their average does not exist; "
            "change a weight, or set normalize_weights: false"
        )
    weight = weight / total
    norms, cosines = norms_and_cosines(operands)
    length = (weight @ cosines @ weight).clamp(min=0).sqrt()
    if not length <= VANISHING * weight.abs().sum():
        inverse = torch.where(norms == 0, 0.0, 1 / norms)
        weight = weight * inverse * (weight @ norms / length)
    return entrywise(weighted, fractions(weight), 1.0, of=origin(operands))
