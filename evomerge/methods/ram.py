"""RAM: average each entry over the models that changed it."""

from __future__ import annotations

from typing import Annotated

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, where
from evomerge.methods.kernel.operands import Operands
from evomerge.params import Real, Shared

PAPER = "https://arxiv.org/abs/2601.13572"
EPSILON = Shared(Real(1e-6, 1e-2, default=1e-5, scale="log", valid=(0, 1e6)))


@merge_method(base="required", paper=PAPER)
def ram(
    operands: Operands,
    epsilon: Annotated[float, EPSILON],
) -> Entrywise:
    """Average each entry's deltas over the models that changed it, however few they are.

        active = {i: |delta_i| > epsilon}                               per entry
        merged = base + mean_active delta_i                             (base where none is)

    Args:
        operands: the sources and the base.
        epsilon: largest change that counts as none, in the unit of the weights.

    Returns:
        The merge, entry by entry.

    Paper: Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models; mergekit
    ``ram``.

    Deviations: none. Where every model changes every entry this is the plain average.
    """
    return entrywise(_mean_of_active, [1.0] * len(operands), epsilon)


@merge_method(base="required", paper=PAPER)
def ramplus_tl(
    operands: Operands,
    epsilon: Annotated[float, EPSILON],
    r: Annotated[float, Shared(Real(0, 0.5, default=0.1))],
    alpha: Annotated[float, Shared(Real(0, 1, default=0.2, valid=(0, 1e6)))],
) -> Entrywise:
    """RAM, with what only one model changed amplified to make up for what that model shares.

        active  = {i: |delta_i| > epsilon}                              per entry
        unique_i, shared_i = entries active in model i alone, and in it and others
        scale_i = 1 + r clip(shared_i / unique_i, 0, alpha)             per tensor
        merged  = base + scale_i delta_i where only i is active, else base + mean_active delta_i

    Args:
        operands: the sources and the base.
        epsilon: largest change that counts as none, in the unit of the weights.
        r: how much is amplified.
        alpha: largest ratio of shared to unique entries that counts.

    Returns:
        The merge, entry by entry.

    Paper: Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models; mergekit
    ``ramplus_tl``.

    Deviations: none.
    """
    scales = []
    for index in range(len(operands)):
        own = [float(index == other) for other in range(len(operands))]
        active, unique = operands.sums(_counts, own, epsilon, limits=[1.0, 1.0])
        scales.append(1 + r * min((active - unique) / max(unique, 1.0), alpha))
    return entrywise(_mean_of_active, scales, epsilon)


def _mean_of_active(deltas: Numbers, scales: Numbers, epsilon: Number) -> Number:
    """The mean of the active deltas; those active alone are multiplied by their model's scale."""
    total, scaled, count = 0.0, 0.0, 0.0
    for d, scale in zip(deltas, scales):
        idle = abs(d) <= epsilon
        total = total + where(idle, 0.0, d)
        scaled = scaled + where(idle, 0.0, d * scale)
        count = count + where(idle, 0.0, 1.0)
    return where(count == 1.0, scaled, total / where(count == 0.0, 1.0, count))


def _counts(deltas: Numbers, own: Numbers, epsilon: Number) -> Numbers:
    """Whether the one model of which ``own`` is 1 is active, and whether it is so alone."""
    active, count = 0.0, 0.0
    for d, mine in zip(deltas, own):
        idle = abs(d) <= epsilon
        active = active + where(idle, 0.0, mine)
        count = count + where(idle, 0.0, 1.0)
    return active, where(count == 1.0, active, 0.0)
