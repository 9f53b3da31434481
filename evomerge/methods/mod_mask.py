"""MoD: choose between two models by the value of the first one's weights."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.weights import weighted
from evomerge.params import Choice, Real, Shared


@merge_method(
    base="none",
    paper="https://arxiv.org/abs/2411.00406",
    min_models=2,
    max_models=2,
    exempt={"order": "the first model's weights decide where the second's are taken"},
)
def mod_mask(
    operands: Operands,
    role: str,
    t: Annotated[float, Shared(Real(0, 1, default=0.5, valid=(0, 1)))],
    others: Annotated[str, Shared(Choice(("average", "first"), default="average"), searched=False)],
) -> Entrywise:
    """In MLPs, keep the first model's lower weights and take the second's for the others.

        n      = (W_1 - min W_1) / (max W_1 - min W_1)      per tensor, signed; 0 if all are equal
        merged = W_1 where n < 1 - t, else W_2              in MLPs
        merged = (1 - t) W_1 + t W_2                        elsewhere

    Args:
        operands: the two models; the first decides, so their order matters.
        role: ``mlp`` for the tensors that are mixed entry by entry.
        t: share of the second model: 0 is the first, up to its largest weights, 1 the second.
        others: tensors outside MLPs are the average, or the first model's.

    Returns:
        The merge, entry by entry.

    Paper: Dang et al. 2024, MoD: A Distribution-Based Approach for Merging Large Language Models.

    Deviations: this is what the authors' code does; the paper speaks of output distributions. Their
    code leaves all tensors outside MLPs at the first model (``others: first``).
    """
    if role != "mlp":
        share = t if others == "average" else 0.0
        return entrywise(weighted, [1 - share, share], 1.0, of="tensors")
    low, high = operands.facts.get("mod_mask: range", lambda: _range(operands.tensors[0]))
    return entrywise(_lower_first, low, high - low or 1.0, 1 - t, of="tensors")


def _range(tensor: Tensor) -> tuple[float, float]:
    return (float(tensor.min()), float(tensor.max())) if tensor.numel() else (0.0, 0.0)


def _lower_first(models: Numbers, low: Number, span: Number, bound: Number) -> Number:
    return where((models[0] - low) / span < bound, models[0], models[1])
