"""DARE: drop delta entries at random and rescale the rest, then add up or elect signs."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.operands import Operands
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
from evomerge.params import Flag, PerModel, Real, Shared

PAPER = "https://arxiv.org/abs/2311.03099"
DENSITY = PerModel(Real(0.05, 1, default=0.5, valid=(0, 1)))
RESCALE = rescale_flag(True, "density")


@merge_method(base="required", paper=PAPER, smooth=("weight", "lambda"))
def dare_linear(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    lambda_: Annotated[float, LAMBDA],
    normalize: Annotated[bool, Shared(Flag(False), searched=False)],
    rescale: Annotated[bool | str, RESCALE],
) -> Entrywise:
    """Drop entries of each delta at random, rescale the rest, add up with weights.

        kept_i = delta_i where noise_i < density_i, else 0; rescaled
        merged = base + lambda sum_i weight_i kept_i         (/ sum_i weight_i if normalize)

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta.
        density: probability that an entry of the model's delta is kept.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        normalize: divide by the sum of the weights, unless that is 0.
        rescale: true restores each delta's L1 norm, density divides it by its density, false
            leaves it.

    Returns:
        The merge, entry by entry.

    Paper: Yu et al. 2024, Language Models are Super Mario; mergekit ``dare_linear``. The authors
    divide by the density (``rescale: density``), which is unbiased; the default is mergekit's.

    Deviations: the mask is keyed by seed, tensor and model, not drawn from a global stream;
    mergekit spares norms below 1e-7, here a norm of which less than 1e-7 is left.
    """
    survivors = _dropped(operands, fractions(density), rescale)
    return blend(survivors, weight, scale=lambda_, elect=False, normalize=normalize)


@merge_method(base="required", paper=PAPER, smooth=("lambda",))
def dare_ties(
    operands: Operands,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[Float[Tensor, " models"], DENSITY],
    lambda_: Annotated[float, LAMBDA],
    normalize: Annotated[bool | str, normalize_flag(False)],
    rescale: Annotated[bool | str, RESCALE],
) -> Entrywise:
    """Drop entries of each delta at random, rescale the rest, then elect signs as TIES does.

        kept_i = delta_i where noise_i < density_i, else 0; rescaled
        sign   = + where sum_i weight_i kept_i >= 0, else -
        agree  = {i: sign(weight_i kept_i) = sign}                      per entry
        merged = base + lambda sum_agree weight_i kept_i   (/ sum_agree |weight_i| if normalize)

    Args:
        operands: the sources and the base.
        weight: coefficient of the model's delta, applied before the election.
        density: probability that an entry of the model's delta is kept.
        lambda_: scale of the merged delta; redundant with the weights, so not searched by itself.
        normalize: divide by the summed weights of the models that agree: true takes their
            magnitudes, signed the weights as they are.
        rescale: true restores each delta's L1 norm, density divides it by its density, false
            leaves it.

    Returns:
        The merge, entry by entry.

    Paper: Yu et al. 2024, Language Models are Super Mario; Yadav et al. 2023, TIES-Merging;
    mergekit ``dare_ties``.

    Deviations: those of ``dare_linear``; and mergekit divides by signed weights, which may cancel
    (``normalize: signed``).
    """
    survivors = _dropped(operands, fractions(density), rescale)
    return blend(survivors, weight, scale=lambda_, elect=True, normalize=normalize)


def _dropped(operands: Operands, density: list[float], rescale: bool | str) -> list[Survivor]:
    survivors = drawn(operands, density)
    if rescale == "density":
        # nothing survives density 0, so there is nothing to divide
        return rescaled(survivors, [1 / p if p > 0 else 1.0 for p in density])
    return restored(operands, survivors) if rescale else survivors
