"""Variation: how genomes come of genomes, over axes of every kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.params import Dim

Genes = NDArray[np.float64]  # [dims], not canonical: steps may leave [0, 1]

SMALLEST_STEP = (
    0.5  # of an integer axis, in cells: from a centre, a third of the draws leave the cell
)


def blended(
    dims: Sequence[Dim],
    one: Sequence[float],
    other: Sequence[float],
    shares: Genes,
    draw: np.random.Generator,
) -> Genes:
    """Between two genomes: ``one`` where the share of ``other`` is 0, ``other`` where it is 1.

    A real or an integer axis is interpolated; a categorical one is that of either, with the share as its
    chance.

    Args:
        dims: the axes.
        one, other: genomes.
        shares: ``[dims]``; beyond [0, 1] the line through both goes on.
        draw: is drawn from.
    """
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    chosen = np.where(draw.random(len(dims)) < shares, b, a)
    line: Genes = a + shares * (b - a)
    return np.where([dim.kind == "categorical" for dim in dims], chosen, line)


def stepped(dims: Sequence[Dim], genes: Genes, std: float, draw: np.random.Generator) -> Genes:
    """A normal step of ``std`` from ``genes`` on real and integer axes.

    A categorical axis is drawn anew with the chance 1 / dims.
    """
    stds = [max(std, SMALLEST_STEP / dim.size) if dim.size else std for dim in dims]
    moved: Genes = genes + np.array(stds) * draw.standard_normal(len(dims))
    fresh = draw.random((2, len(dims)))
    drawn = np.where(fresh[0] * len(dims) < 1, fresh[1], genes)
    return np.where([dim.kind == "categorical" for dim in dims], drawn, moved)
