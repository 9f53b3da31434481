"""RAM: average each entry over the models that changed it."""

from __future__ import annotations

from typing import Annotated, Any

from evomerge.methods import merge_method
from evomerge.methods._entrywise import Entrywise, entrywise, where
from evomerge.methods._operands import Operands
from evomerge.params import Real, Shared

PAPER = "https://arxiv.org/abs/2601.13572"
EPSILON = Shared(Real(1e-6, 1e-2, default=1e-5, scale="log", valid=(0, 1e6)))


@merge_method(base="required", elementwise=True, paper=PAPER)
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
    return entrywise(_mean_of_active, epsilon, [1.0] * len(operands), 0.0, 1.0)


@merge_method(base="required", elementwise=False, paper=PAPER)
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
        active, unique = operands.sums(_counts, epsilon, own, 0.0, 1.0, limits=[1.0, 1.0])
        scales.append(1 + r * min((active - unique) / max(unique, 1.0), alpha))
    return entrywise(_mean_of_active, epsilon, scales, 0.0, 1.0)


def _mean_of_active(deltas: Any, epsilon: Any, scales: Any, zero: Any, one: Any) -> Any:
    """The mean of the active deltas; those active alone are multiplied by their model's scale."""
    total, scaled, count = zero, zero, zero
    for d, scale in zip(deltas, scales):
        idle = abs(d) <= epsilon
        total = total + where(idle, zero, d)
        scaled = scaled + where(idle, zero, d * scale)
        count = count + where(idle, zero, one)
    return where(count == one, scaled, total / where(count == zero, one, count))


def _counts(deltas: Any, epsilon: Any, own: Any, zero: Any, one: Any) -> Any:
    """Whether the one model of which ``own`` is 1 is active, and whether it is so alone."""
    active, count = zero, zero
    for d, mine in zip(deltas, own):
        idle = abs(d) <= epsilon
        active = active + where(idle, zero, mine)
        count = count + where(idle, zero, one)
    return active, where(count == one, active, zero)
