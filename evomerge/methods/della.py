"""DELLA: drop delta entries at random, the smaller the likelier, then add up or elect signs."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.leaves import Entries, Leaf
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import ranks
from evomerge.methods.kernel.sparse import (
    LAMBDA,
    WEIGHT,
    Survivor,
    blend,
    drawn,
    normalize_flag,
    rescale_flag,
    rescaled,
    restored,
)
from evomerge.methods.kernel.weights import fractions
from evomerge.params import Choice, Flag, PerModel, Real, Shared

PAPER = "https://arxiv.org/abs/2406.11617"
DENSITY = PerModel(Real(0.05, 1, default=0.5, valid=(0, 1)))
EPSILON = PerModel(Real(0, 0.25, default=0.15, valid=(0, 1)))
BY = Shared(Choice(("row", "tensor", "magnitude"), "row"), searched=False)
RESCALE = rescale_flag(True, "probability")


@merge_method(base="required", paper=PAPER, smooth=("lambda",))
def della(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    epsilon: Annotated[Float[Tensor, " models"], EPSILON],
    lambda_: Annotated[float, LAMBDA],
    by: Annotated[str, BY],
    normalize: Annotated[bool | str, normalize_flag(True)],
    rescale: Annotated[bool | str, RESCALE],
) -> Entrywise:
    """Drop entries of each delta at random by magnitude, rescale, then elect signs as TIES does.

        kept_i = as in della_linear
        sign   = + where sum_i weight_i kept_i >= 0, else -
        agree  = {i: sign(weight_i kept_i) = sign}                      per entry
        merged = base + lambda sum_agree weight_i kept_i    (/ sum_agree |weight_i| if normalize)

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta, applied before the election.
        density: mean probability that an entry of the model's delta is kept.
        epsilon: how far the probability rises and falls from that mean; at most to 0 or 1.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        by: what makes an entry likelier: its rank in its row, its rank in the tensor, or its
            magnitude between the least and the greatest of its row.
        normalize: divide by the summed weights of the models that agree: true takes their
            magnitudes, signed the weights as they are.
        rescale: true restores each delta's L1 norm, probability divides each entry by its own,
            false leaves them.

    Returns:
        The merge, entry by entry.

    Paper: Deep et al. 2024, DELLA-Merging; Yadav et al. 2023, TIES-Merging; mergekit ``della``.

    Deviations: those of ``della_linear``; and mergekit divides by signed weights, which may cancel
    (``normalize: signed``).
    """
    survivors = _dropped(operands, fractions(density), fractions(epsilon), by, rescale)
    return blend(survivors, weight, scale=lambda_, elect=True, normalize=normalize)


@merge_method(base="required", paper=PAPER, smooth=("weight", "lambda"))
def della_linear(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    epsilon: Annotated[Float[Tensor, " models"], EPSILON],
    lambda_: Annotated[float, LAMBDA],
    by: Annotated[str, BY],
    normalize: Annotated[bool, Shared(Flag(False), searched=False)],
    rescale: Annotated[bool | str, RESCALE],
) -> Entrywise:
    """Drop entries of each delta at random by magnitude, rescale the rest, add up with weights.

        rank   = 0 .. c - 1, ascending in |delta_i| within the row of c entries
        p      = density_i - epsilon_i + 2 epsilon_i rank / (c - 1)
        kept_i = delta_i where noise_i < p, else 0; rescaled
        merged = base + lambda sum_i weight_i kept_i         (/ sum_i weight_i if normalize)

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta.
        density: mean probability that an entry of the model's delta is kept.
        epsilon: how far the probability rises and falls from that mean; at most to 0 or 1.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        by: what makes an entry likelier: its rank in its row, its rank in the tensor, or its
            magnitude between the least and the greatest of its row.
        normalize: divide by the sum of the weights, unless that is 0.
        rescale: true restores each delta's L1 norm, probability divides each entry by its own,
            false leaves them.

    Returns:
        The merge, entry by entry.

    Paper: Deep et al. 2024, DELLA-Merging; mergekit ``della_linear``. The authors divide by the
    probability (``rescale: probability``), which is unbiased; the default is mergekit's. Their
    window is 2 epsilon.

    Deviations: epsilon is cut to what keeps probabilities within [0, 1], where mergekit fails, so
    density 0 keeps nothing and 1 everything; a row of one entry has probability density (mergekit
    divides by zero); tensors of more than two axes are [first, rest], where mergekit ranks along
    the second axis alone; entries that tie rank by position; the mask is keyed by seed, tensor and
    model, not drawn from a global stream; mergekit spares norms below 1e-7, here a norm of which
    less than 1e-7 is left.
    """
    survivors = _dropped(operands, fractions(density), fractions(epsilon), by, rescale)
    return blend(survivors, weight, scale=lambda_, elect=False, normalize=normalize)


def _dropped(
    operands: Operands, density: list[float], epsilon: list[float], by: str, rescale: bool | str
) -> list[Survivor]:
    survivors = pruned(operands, density, epsilon, by)
    if rescale == "probability":
        return rescaled(survivors, [_reciprocal(one) for one in survivors])
    return restored(operands, survivors) if rescale else survivors


def pruned(
    operands: Operands, density: list[float], epsilon: list[float], by: str = "row"
) -> list[Survivor]:
    """Entries at random, with probabilities that rise linearly in ``by``."""
    lowest, step, position = [], [], []
    last = {"row": operands.columns - 1, "tensor": operands.size - 1, "magnitude": 1}[by]
    for index, (p, window) in enumerate(zip(density, epsilon, strict=True)):
        half = min(window, p, 1 - p) if last > 0 and operands.size else 0.0
        lowest.append(p - half)
        step.append(2 * half / max(last, 1))
        position.append(_position(operands, index, by) if half > 0 else 0.0)
    return drawn(operands, lowest, position, step)


def _position(operands: Operands, index: int, by: str) -> Leaf:
    """Per entry what its probability rises with."""
    if by == "magnitude":
        name = operands.names[index]
        return Entries(operands.facts.get("della: place", lambda: _place(operands, index), of=name))
    return Entries(ranks(operands, index, operands.columns if by == "row" else operands.size))


def _place(operands: Operands, index: int) -> Float[Tensor, "rows columns"]:
    """Where a magnitude stands between the least (0) and the greatest (1) of its row."""
    size = operands.delta(index).abs()
    low, high = size.amin(1, keepdim=True), size.amax(1, keepdim=True)
    width = high - low
    return torch.where(width > 0, (size - low) / width, 0.5)


def _reciprocal(model: Survivor) -> Leaf:
    """What divides an entry by its probability; 1 where nothing survives."""
    if not isinstance(model.rank, Entries):
        return 1 / float(model.probability) if model.probability > 0 else 1.0
    p = model.probability + model.rank.values.float() * model.step
    return Entries(torch.where(p > 0, p.reciprocal(), 1.0))
