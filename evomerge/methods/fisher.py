"""Fisher merging: an average in which every entry of a model counts by what its model knows of it."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.errors import InputError
from evomerge.methods import merge_method, required
from evomerge.params import Choice, PerModel, Real, Shared


def _squares(
    fisher: Float[Tensor, " models *shape"], normalize: str | bool
) -> Float[Tensor, " models"] | None:
    """Sum of squares of each model's Fisher information, float64; summed over all tensors."""
    if normalize != "model":
        return None
    return _norm(_flat(fisher)).square()


@merge_method(
    base="none",
    paper="https://arxiv.org/abs/2111.09832",
    surveys=(_squares,),
    statistics={"fisher": required},
    exempt={"order": "clamp_first favours the first model"},
)
def fisher(
    tensors: Float[Tensor, " models *shape"],
    fisher: Float[Tensor, " models *shape"],
    totals: tuple[Tensor, ...],
    weight: Annotated[Float[Tensor, " models"], PerModel(Real(0, 2, default=1, valid=(0, 1e6)))],
    normalize: Annotated[
        str | bool, Shared(Choice((False, "tensor", "model"), default="model"), searched=False)
    ],
    floor: Annotated[
        float, Shared(Real(1e-6, 1, default=1e-3, scale="log", valid=(0, 1e6)), searched=False)
    ],
    guard: Annotated[
        str, Shared(Choice(("relative", "absolute"), default="relative"), searched=False)
    ],
    flooring: Annotated[
        str, Shared(Choice(("add", "clamp", "clamp_first"), default="add"), searched=False)
    ],
) -> Float[Tensor, "*shape"]:
    """Average the models, each entry weighed by the Fisher information that its model has of it.

        merged = sum_i c_i F_i W_i / sum_i c_i F_i              per entry, c_i = weight_i / |F_i|

    Args:
        tensors: the models.
        fisher: diagonal of each model's Fisher information, 0 or more.
        totals: squared norms of the Fisher information over the whole model.
        weight: coefficient of the model.
        normalize: divide a model's Fisher information by its L2 norm, over the tensor or the whole model.
        floor: what an entry counts at least, so that entries nobody knows of are averaged.
        guard: the floor is a fraction of the model's mean over the tensor, or a number as it stands.
        flooring: add the floor, raise lower values to it, or raise them in the first model alone.

    Returns:
        The merge. Where no model counts, the average by weight.

    Raises:
        InputError: weights sum to 0.

    Paper: Matena and Raffel 2022, Merging Models with Fisher-Weighted Averaging; the flavours of
    MergeLM (add, model), of its authors (clamp_first, model), of RegMean's (add, tensor) and of MaTS
    (clamp, no normalisation), all with an absolute floor.

    Deviations: the floor is relative: Fisher information of another loss, or of longer texts, differs by
    orders of magnitude, and an absolute floor turns it into a plain average, or into nothing.
    """
    if float(weight.sum()) < 1e-8:
        raise InputError(
            f"fisher: weights {weight.tolist()} sum to 0, so their average does not exist; raise one"
        )
    flat, known = _flat(fisher), fisher

    def each(values: Tensor) -> Tensor:
        """[models] as [models, 1, ...]."""
        return values.to(fisher).view(-1, *[1] * (fisher.dim() - 1))

    norm = torch.ones_like(weight)
    if normalize == "model":
        norm = totals[0].sqrt()
    elif normalize == "tensor":
        norm = _norm(flat)
    lowest = torch.full_like(weight, floor)
    if guard == "relative":
        lowest = floor * flat.sum(1, dtype=torch.float64).cpu() / max(flat.shape[1], 1)
    elif flooring == "add":
        norm = norm + floor  # as MergeLM and RegMean's authors do
    if flooring == "add":
        known = known + each(lowest)
    elif flooring == "clamp":
        known = known.maximum(each(lowest))
    else:
        known[0].clamp_(min=float(lowest[0]))  # a stack of our own
    share = known * each(weight / norm.clamp(min=1e-30))  # of no model if all is 0
    total = share.sum(0)
    share = torch.where(total > 0, share / total, each(weight / weight.sum()))
    return share.mul_(tensors).sum(0)


def _flat(fisher: Tensor) -> Tensor:
    """[models, entries]."""
    return fisher.reshape(len(fisher), fisher[0].numel())


def _norm(flat: Tensor) -> Tensor:
    """[models], float64 on the CPU."""
    norm: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
    return norm.cpu()
