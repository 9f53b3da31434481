"""Consensus merging: keep of a merged delta what enough of the models need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from jaxtyping import Float
from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.leaves import Cut
from evomerge.methods.kernel.modelwise import cuts, lower_histograms
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import largest
from evomerge.methods.kernel.sparse import WEIGHT
from evomerge.methods.kernel.weights import fractions
from evomerge.methods.ties import kept, upper
from evomerge.methods.ties_original import ranks
from evomerge.params import Choice, Integer, PerModel, Real, Shared

Totals = tuple[Tensor, ...]

PAPER = "https://arxiv.org/abs/2405.07813"
MASK = PerModel(Real(0.2, 0.8, default=0.4, valid=(0, 100)))
VOTES = Shared(Integer(0, 100, default=2), searched=False)
SCALE = Shared(Real(0.2, 1, default=1, valid=(-100, 100)))
SCOPE = Shared(Choice(("tensor", "model"), "tensor"), searched=False)


def lower(operands: Operands, totals: Totals, density: Tensor, scope: str) -> Tensor | None:
    if scope != "model":
        return None
    return lower_histograms(operands, totals[0], ranks(totals[0], density))


@merge_method(base="required", paper=PAPER, surveys=(upper, lower))
def consensus_ta(
    operands: Operands,
    totals: Totals,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[
        Float[Tensor, " models"],
        PerModel(Real(0.05, 1, default=1, valid=(0, 1)), searched=False),
    ],
    mask_lambda: Annotated[Float[Tensor, " models"], MASK],
    k: Annotated[int, VOTES],
    lambda_: Annotated[float, SCALE],
    scope: Annotated[str, SCOPE],
) -> Entrywise:
    """Add up the deltas, and keep the entries that at least ``k`` models need.

        M      = sum_i weight_i trim(delta_i, density_i)
        need_i = |weight_i delta_i| > mask_lambda_i |M - weight_i delta_i|
        merged = base + lambda M where sum_i need_i >= k, else base     per entry

    ``k`` 0 is task arithmetic, 1 drops what no model needs, 2 also what only one does.

    Args:
        operands: the sources and the base.
        totals: histograms of the magnitudes, with scope model.
        weight: coefficient of the model's delta.
        density: fraction of the model's entries that are added up, the largest.
        mask_lambda: how far an entry must stand out from the others for the model to need it.
        k: fewest models that need an entry.
        lambda_: scale of the merged delta.
        scope: where entries compete for the density: in each tensor, or in all tensors of the group,
            counted as the authors do.

    Returns:
        The merge, entry by entry.

    Paper: Wang et al. 2024, Localizing Task Information for Improved Model Merging and Compression.

    Deviations: weights are an addition. The authors' code trims the whole model at once (``scope:
    model``).
    """
    models = _voters(_cuts(operands, totals, density, scope), weight, mask_lambda)
    return entrywise(_agreed_sum, models, float(k), lambda_)


@merge_method(base="required", paper=PAPER, surveys=(upper, lower))
def consensus_ties(
    operands: Operands,
    totals: Totals,
    weight: Annotated[Float[Tensor, " models"], WEIGHT],
    density: Annotated[
        Float[Tensor, " models"], PerModel(Real(0.05, 1, default=0.2, valid=(0, 1)))
    ],
    mask_lambda: Annotated[Float[Tensor, " models"], MASK],
    k: Annotated[int, VOTES],
    lambda_: Annotated[float, SCALE],
    scope: Annotated[str, SCOPE],
) -> Entrywise:
    """Merge as TIES does, summing, and keep the entries that at least ``k`` models need.

        kept_i = weight_i trim(delta_i, density_i)
        sign   = + where sum_i kept_i >= 0, else -
        M      = sum of the kept_i that have this sign
        need_i = |weight_i delta_i| > mask_lambda_i |M - weight_i delta_i|
        merged = base + lambda M where sum_i need_i >= k, else base     per entry

    Args:
        operands: the sources and the base.
        totals: histograms of the magnitudes, with scope model.
        weight: coefficient of the model's delta.
        density: fraction of the model's entries that TIES keeps, the largest.
        mask_lambda: how far an entry must stand out from the others for the model to need it.
        k: fewest models that need an entry.
        lambda_: scale of the merged delta.
        scope: where entries compete for the density: in each tensor, or in all tensors of the group,
            counted as the authors do.

    Returns:
        The merge, entry by entry.

    Paper: Wang et al. 2024, Localizing Task Information for Improved Model Merging and Compression.

    Deviations: as ``consensus_ta``.
    """
    models = _voters(_cuts(operands, totals, density, scope), weight, mask_lambda)
    return entrywise(_agreed_election, models, float(k), lambda_)


def _cuts(operands: Operands, totals: Totals, density: Tensor, scope: str) -> list[Cut]:
    """Per model the cut that its density makes."""
    if scope == "model":
        return cuts(totals[0], totals[1], ranks(totals[0], density))
    counts = [kept(operands.size, p) for p in fractions(density)]
    return [largest(operands, index, count) for index, count in enumerate(counts)]


class Voter(NamedTuple):
    """One model: the cut that keeps its entries, its weight, and what makes it need an entry."""

    low: Number
    weight: Number
    mask: Number


def _voters(cut: Sequence[Cut], weight: Tensor, mask: Tensor) -> list[Voter]:
    each = zip(cut, fractions(weight), fractions(mask), strict=True)
    return [Voter(*model) for model in each]


# -- entry functions -----------------------------------------------------------------------------


def _agreed_sum(deltas: Numbers, models: Sequence[Voter], k: Number, scale: Number) -> Number:
    return _where_needed(_sum(deltas, models), deltas, models, k) * scale


def _agreed_election(deltas: Numbers, models: Sequence[Voter], k: Number, scale: Number) -> Number:
    positive = _sum(deltas, models) >= 0.0
    elected = 0.0
    for d, m in zip(deltas, models):
        value = where(abs(d) >= m.low, d, 0.0) * m.weight
        elected = elected + where((value > 0.0) == positive, value, 0.0)
    return _where_needed(elected, deltas, models, k) * scale


def _sum(deltas: Numbers, models: Sequence[Voter]) -> Number:
    total = 0.0
    for d, m in zip(deltas, models):
        total = total + where(abs(d) >= m.low, d, 0.0) * m.weight
    return total


def _where_needed(merged: Number, deltas: Numbers, models: Sequence[Voter], k: Number) -> Number:
    needs = 0.0
    for d, m in zip(deltas, models):
        value = d * m.weight
        needs = needs + where(abs(value) > abs(merged - value) * m.mask, 1.0, 0.0)
    return where(needs >= k, merged, 0.0)
