"""Karcher mean: the point of a sphere with the least squared distance to the models."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float64
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, entrywise
from evomerge.methods.kernel.geometry import norms_and_cosines
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import fractions, weighted
from evomerge.params import Integer, Real, Shared

OPPOSITE = 1e-6  # sine of an obtuse angle below which no shortest way leads to the other side


@merge_method(base="none", paper="https://doi.org/10.1002/cpa.3160300502", copies=2)
def karcher(
    operands: Operands,
    max_iter: Annotated[int, Shared(Integer(1, 100, default=10), searched=False)],
    tol: Annotated[
        float, Shared(Real(1e-7, 1e-3, default=1e-5, scale="log", valid=(0, 1)), searched=False)
    ],
) -> Entrywise:
    """Go to the Riemannian centre of the models' directions, and there their mean length.

        u_i = W_i / |W_i|                                      zero tensors left out
        m   = mean_i u_i, made a unit vector (u_1 if it vanishes)
        repeat:  T = mean_i theta_i / sin theta_i (u_i - cos theta_i m),  cos theta_i = <u_i, m>
                 stop where |T| < tol
                 m = cos |T| m + sin |T| T / |T|
        merged = m mean_i |W_i|                                zero tensors included

    each tensor as one long vector. All of it happens in the span of the models, so the iteration
    runs on their dot products, and the tensors are read twice, however many steps it takes.

    Args:
        operands: the models, all of equal weight. The base is one of them only if
            it is listed.
        max_iter: most steps.
        tol: length of a step below which the mean is found.

    Returns:
        The merge, entry by entry.

    Paper: Karcher 1977, Riemannian center of mass and mollifier smoothing; mergekit ``karcher``.

    Deviations: a model exactly opposite to the mean, to which every way is equally short, does not
    pull (mergekit divides by about 0 there). Small tensors are tensors like others; mergekit leaves
    out the direction of those shorter than ``tol``.
    """
    norms, cosines = norms_and_cosines(operands)
    mean = _mean_direction(cosines, norms != 0, max_iter, tol)
    inverse = torch.where(norms == 0, 0.0, 1 / norms)
    return entrywise(weighted, fractions(mean * inverse * norms.mean()), 1.0, of="tensors")


def _mean_direction(
    cosines: Float64[Tensor, "models models"], present: Tensor, max_iter: int, tol: float
) -> Float64[Tensor, " models"]:
    """The mean as coefficients of the unit vectors whose dot products are ``cosines``."""
    if not present.any():
        return torch.zeros_like(cosines[0])
    share = present.double() / present.sum()
    mean = share
    if _length(mean, cosines) < tol:
        mean = torch.zeros_like(share)
        mean[present.nonzero()[0]] = 1
    mean = mean / _length(mean, cosines)
    for _ in range(max_iter):
        cosine = (cosines @ mean).clamp(-1, 1)
        angle = cosine.acos()
        opposite = (cosine < 0) & (angle.sin() < OPPOSITE)
        pull = torch.where(opposite, 0.0, share / torch.sinc(angle / math.pi))
        step = pull - (pull @ cosine) * mean
        size = _length(step, cosines)
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        mean = mean / _length(mean, cosines)
    return mean


def _length(vector: Float64[Tensor, " models"], cosines: Float64[Tensor, "models models"]) -> float:
    """Of a sum of unit vectors with these dot products."""
    return math.sqrt(max(0.0, float(vector @ cosines @ vector)))
