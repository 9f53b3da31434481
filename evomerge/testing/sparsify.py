"""The first half of the trimming methods on its own: make one delta sparse."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods.breadcrumbs import by_tensor
from evomerge.methods.della import pruned
from evomerge.methods.kernel.draws import draw_key
from evomerge.methods.kernel.facts import Facts, FactStore
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import largest
from evomerge.methods.kernel.sparse import Survivor, band, blend, drawn
from evomerge.methods.ties import kept

Kind = Literal["magnitude", "magnitude_outliers", "random", "della_magprune"]
NORMS = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}


@torch.no_grad()
def sparsify(
    delta: Float[Tensor, "*shape"],
    kind: Kind,
    density: float,
    *,
    gamma: float = 0.01,
    epsilon: float = 0.15,
    norm: Literal["l1", "l2", "linf"] | None = None,
    noise: Float[Tensor, "*shape"] | None = None,
    seed: int = 0,
    name: str = "",
) -> Float[Tensor, "*shape"]:
    """``delta`` with some entries only, as ``ties``, ``breadcrumbs``, ``dare`` or ``della`` keep.

    Args:
        delta: a source minus its base, any floating dtype.
        kind: the largest entries; the largest but outliers; any; any, the larger the likelier
            (mergekit's names).
        density: fraction of the entries kept, or the mean probability of it.
        gamma: fraction of the entries cut as outliers.
        epsilon: how far the probability rises and falls.
        norm: which norm of the delta to restore; left as it is where less than 1e-7 of it remains.
        noise: uniforms to use instead of the draw keyed by ``seed`` and the tensor's ``name``.

    Returns:
        The sparse delta, float32.
    """
    operands = Operands(
        {"": delta},
        None,
        Facts(FactStore(), name, ("",)),
        lambda model: draw_key(seed, name, model),
        None if noise is None else {"": noise},
    )
    survivors = _survivors(operands, kind, density, gamma, epsilon)
    merge = blend(survivors, torch.ones(1), scale=1.0, elect=False, normalize=False)
    sparse = operands.merge(merge)[0]
    if norm is None:
        return sparse
    left, whole = (
        float(torch.linalg.vector_norm(x, NORMS[norm], dtype=torch.float64)) if x.numel() else 0.0
        for x in (sparse, delta)
    )
    return sparse * (whole / left) if left > 1e-7 * whole else sparse


def _survivors(
    operands: Operands, kind: Kind, density: float, gamma: float, epsilon: float
) -> list[Survivor]:
    if kind == "magnitude":
        return band([largest(operands, 0, kept(operands.size, density))])
    if kind == "magnitude_outliers":
        return by_tensor(operands, [density], [gamma])
    if kind == "random":
        return drawn(operands, [density])
    return pruned(operands, [density], [epsilon])
