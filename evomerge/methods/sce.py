"""SCE: select entries by their variance over the models, calculate weights, erase minorities."""

from __future__ import annotations

from typing import Annotated

from evomerge.methods import merge_method
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, entrywise, put, where
from evomerge.methods.kernel.leaves import Cut
from evomerge.methods.kernel.norms import extent
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import top
from evomerge.params import Choice, Real, Shared

LEAST = 2.0**-126  # of normal float32 numbers

GUARD = Shared(Choice(("relative", "absolute"), "relative"), searched=False)


@merge_method(base="required", paper="https://arxiv.org/abs/2408.07990", min_models=2, copies=2)
def sce(
    operands: Operands,
    select_topk: Annotated[float, Shared(Real(0.05, 1, default=0.1, valid=(0, 1)))],
    fuse: Annotated[str, Shared(Choice(("selected", "all"), "selected"), searched=False)],
    guard: Annotated[str, GUARD],
) -> Entrywise:
    """Average the deltas where models disagree most, weighted by how much each changed there.

        selected = the int(select_topk n) of the n entries with a variance over the models that
                   have the largest; all entries if select_topk = 1
        weight_i = mean(selected delta_i^2) / sum_j mean(selected delta_j^2)        per tensor
        sign     = + where sum_i delta_i >= 0, else -
        agree    = {i: sign(delta_i) = sign}                                        per entry
        merged   = base + sum_agree weight_i delta_i / sum_agree weight_i     where selected

    Args:
        operands: the sources and the base.
        select_topk: fraction of the entries selected.
        fuse: whether only selected entries are merged, or all, the selection making the weights.
        guard: relative takes only 0 for 0, absolute takes mean squares and sums of weights below
            1e-6 for 0, as mergekit does.

    Returns:
        The merge, entry by entry.

    Paper: Wan et al. 2024, FuseChat: Knowledge Fusion of Chat Models; mergekit ``sce``. The
    authors' code merges all entries (``fuse: all``).

    Deviations: where the mean squares of all models sum to less than 1e-6, as those of ordinary
    fine-tuning do, mergekit weighs all models alike (``guard: absolute``); here only where nothing
    was selected or changed. Of entries that tie at the cut the lowest flat indices are selected.
    """
    cut: Cut | float = 0.0
    if select_topk < 1:
        cut = top(operands, "variance", variance, fraction=select_topk)
    extents = [extent(operands, index) ** 2 for index in range(len(operands))]
    squares = operands.sums(selected_squares, cut, limits=extents)
    total, floor = sum(squares), LEAST
    if guard == "absolute":
        total = total if total >= 1e-6 * operands.size else 0.0
        floor = 1e-6
    weights = [each / total if total > 0 else 1 / len(squares) for each in squares]
    return entrywise(agreed_mean, weights, 0.0 if fuse == "all" else cut, floor)


# -- entry functions -----------------------------------------------------------------------------


def variance(deltas: Numbers) -> Number:
    """The variance over the models, times their number squared: exactly 0 where they agree."""
    total = 0.0
    for i in range(len(deltas)):
        for j in range(i):
            gap = deltas[i] - deltas[j]
            total = total + gap * gap
    return total


def selected_squares(deltas: Numbers, cut: Number) -> Numbers:
    spread = variance(deltas)
    squares = deltas
    for i in range(len(deltas)):
        squares = put(squares, i, where(spread >= cut, deltas[i] * deltas[i], 0.0))
    return squares


def agreed_mean(deltas: Numbers, weights: Numbers, cut: Number, floor: Number) -> Number:
    spread = variance(deltas)
    total = 0.0
    for d in deltas:
        total = total + d
    positive = total >= 0.0
    merged = 0.0
    divisor = 0.0
    for d, w in zip(deltas, weights):
        value = where(spread >= cut, d, 0.0)
        value = where((value > 0.0) == positive, value, 0.0)
        merged = merged + value * w
        divisor = divisor + where(value == 0.0, 0.0, w)
    return merged / where(divisor > floor, divisor, floor)
