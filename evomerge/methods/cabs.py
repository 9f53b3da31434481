"""CABS: conflict-aware and balanced sparsification."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.order import EXEMPT, ORDER, sequence
from evomerge.methods.kernel.tensorwise import weighted_sum
from evomerge.params import Choice, Integer, PerModel, Real, Shared


@merge_method(
    base="required",
    paper="https://arxiv.org/abs/2503.01874",
    exempt=EXEMPT,
)
def cabs(
    deltas: Float[Tensor, " models *shape"],
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1))],
    density: Annotated[float, Shared(Real(0.05, 1, default=0.25, valid=(0, 1)))],
    order: Annotated[Float[Tensor, " models"], ORDER],
    m: Annotated[int, Shared(Integer(1, 65536, default=256), searched=False)],
    pruning_method: Annotated[
        str, Shared(Choice(("n:m", "magnitude"), default="n:m"), searched=False)
    ],
    overlap: Annotated[str, Shared(Choice(("none", "half"), default="none"), searched=False)],
    tail: Annotated[str, Shared(Choice(("kept", "dropped"), default="kept"), searched=False)],
) -> Float[Tensor, "*shape"]:
    """One model after another takes its largest entries among those that are still free.

        free_i = where no earlier model kept anything
        kept_i = of each m consecutive entries of delta_i free_i, the n of largest magnitude
        merged = base + sum_i weight_i kept_i

    with n = round(density m), so that all parts of a tensor are pruned alike. ``magnitude`` prunes
    the tensor as a whole: it keeps the entries above the one that stands at int((1 - density) size)
    in ascending order, entries that are not free counting as zeros.

    Args:
        deltas: sources minus base [models, *shape].
        weight: coefficient of the model's sparse delta.
        density: fraction of the entries that each model may keep: n / m.
        order: models are taken by ascending value, equals in the order given.
        m: entries of a block, consecutive in row-major order.
        pruning_method: per block (n:m) or over the tensor (magnitude).
        overlap: which entries a later model may take: free ones (none), or from a density of 1/2
            on, all free ones and the m / 2 largest of the others (half); n:m only.
        tail: a last block of less than m entries is pruned to the same density (kept) or to
            nothing (dropped).

    Returns:
        The merged delta [*shape].

    Paper: Yang et al. 2025, CABS: Conflict-Aware and Balanced Sparsification for Enhancing Model
    Merging.

    Deviations: the authors' code drops the tail (``tail: dropped``), and its script for large
    models has ``overlap: half``. Entries that tie at the cut are taken in flat order.
    """
    sparse = torch.zeros_like(deltas)
    taken = torch.zeros_like(deltas[0], dtype=torch.bool)
    for place, model in enumerate(sequence(order)):
        free = deltas[model] * ~taken
        if pruning_method == "magnitude":
            kept = _above(free.abs(), density)
        elif overlap == "half" and density >= 0.5 and place > 0:
            free = deltas[model]
            kept = ~taken | _largest_of_blocks((free * taken).abs(), (m // 2) / m, m, tail)
        else:
            kept = _largest_of_blocks(free.abs(), density, m, tail)
        sparse[model] = free * kept
        taken |= sparse[model] != 0
    return weighted_sum(sparse, weight)


def _largest_of_blocks(
    magnitude: Float[Tensor, "*shape"], density: float, m: int, tail: str
) -> Bool[Tensor, "*shape"]:
    """Where the round(density m) largest entries of each block of m are; first come first."""
    flat = magnitude.reshape(-1)
    whole = flat.numel() // m * m
    parts = [_largest_of_rows(flat[:whole].view(-1, m), round(density * m))]
    rest = flat[whole:].view(1, -1)
    count = round(density * rest.numel()) if tail == "kept" else 0
    parts.append(_largest_of_rows(rest, count))
    return torch.cat([part.reshape(-1) for part in parts]).view(magnitude.shape)


def _largest_of_rows(rows: Float[Tensor, "blocks m"], count: int) -> Bool[Tensor, "blocks m"]:
    if count == 0:
        return torch.zeros_like(rows, dtype=torch.bool)
    cut = rows.topk(count, dim=1).values[:, -1:]
    above, at = rows > cut, rows == cut
    return above | (at & (at.cumsum(1) <= count - above.sum(1, keepdim=True)))


def _above(magnitude: Float[Tensor, "*shape"], density: float) -> Bool[Tensor, "*shape"]:
    """Where entries exceed the one at int((1 - density) size) in ascending order."""
    # 1 - 0.71 is not quite 0.29, and int(0.29 * 100) has to be what it is for 0.29
    index = int(round(1 - density, 12) * magnitude.numel())
    if index >= magnitude.numel():
        return torch.zeros_like(magnitude, dtype=torch.bool)
    return magnitude > magnitude.reshape(-1).kthvalue(index + 1).values
