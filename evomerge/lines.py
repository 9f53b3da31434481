"""LiNeS: what a merge changes in the base, scaled by depth. Composes with any method.

    merged = base + factor (merge - base),    factor = alpha + beta * depth

    depth = 0             the embedding
            l / (L - 1)   block l of L; 1 where there is one block only
            1             the final norm and the output head

Shallow layers hold what all tasks share, so they are changed less than deep ones.

Paper: Wang et al. 2025, LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model
    Merging, https://arxiv.org/abs/2410.17146

Deviations: the authors' code scales whatever is outside the blocks by ``alpha``; ``head: shallow``
    does so too. The deep end is the default because the head reads the last block. The authors
    leave a single block undefined. A layer is parsed from the whole name (theirs takes the first
    number, which may be that of an expert).
"""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.params import Parameter, Real, Shared
from evomerge.tensors import Place

HEADS = ("deep", "shallow")
LINES = "lines"  # the factor over depth, among the coefficients of a recipe

PARAMETERS = (
    Parameter(
        "alpha", Shared(Real(0, 1, default=0.5)), "factor of the embedding and the first block"
    ),
    Parameter(
        "beta", Shared(Real(-0.5, 1, default=0.5)), "how much more the factor of the last block is"
    ),
)


@dataclass(frozen=True)
class Lines:
    """A line over depth; see the module's text.

    Attributes:
        alpha: factor at depth 0.
        beta: how much more it is at depth 1.
        head: depth of the final norm and the output head: ``deep`` (1) or ``shallow`` (0).
    """

    alpha: float
    beta: float
    head: str = HEADS[0]


NEUTRAL = Lines(1.0, 0.0)


def line_factor(lines: Lines, place: Place) -> float:
    """Factor of the merged delta of a tensor at ``place``."""
    if place.layer is not None:
        depth = place.layer / (place.layers - 1) if place.layers > 1 else 1.0
    else:
        depth = 1.0 if place.role != "embed" and lines.head == "deep" else 0.0
    return lines.alpha + lines.beta * depth


def auto_alpha(summed: float, merged: float, models: int) -> float:
    """The authors' alpha: a merged vector at depth 0 as long as the average of the task vectors.

        alpha = |sum_i D_i|_1 / |merged|_1 / models

    For a plain sum of task vectors it is 1 / models.

    Args:
        summed: L1 norm of the sum of all task vectors, over the whole model.
        merged: L1 norm of the merged vector, over the whole model.
        models: number of source models.
    """
    return (summed / merged if merged else 1.0) / models
