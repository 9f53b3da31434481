"""What the merge of one tensor is, before it is computed: a sum of the models, factors, or neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from evomerge.factors import Factors
from evomerge.methods.kernel.entrywise import Entrywise
from evomerge.methods.kernel.leaves import Columns, Rows
from evomerge.methods.kernel.weights import weighted

# Of a model in a sum: a number, or one a row [rows, 1] or a column [1, columns] of the tensor as a matrix.
Coefficient = float | Tensor


@dataclass(frozen=True)
class Form:
    """See the module's text.

    Attributes:
        merged: computes the merge, base included, in float32.
        factors: of the merged delta, where the kernel gives such.
        models: where the merge is a sum, the coefficient of each of the models, in order; None where it is none.
        base: where it is a sum, the coefficient of the base.
    """

    merged: Callable[[], Tensor]
    factors: Factors | None = None
    models: tuple[Coefficient, ...] | None = None
    base: Coefficient = 0.0


def form_of(made: object, scale: float, merged: Callable[[], Tensor]) -> Form:
    """The form of what a kernel has ``made``, its merged delta times ``scale``.

    of deltas:   base + s sum_i c_i (W_i - base)
    of tensors:  base + s (sum_i c_i W_i - base), or the plain sum where s is 1
    """
    if isinstance(made, Factors):
        return Form(merged, factors=made.scaled(scale))
    if not isinstance(made, Entrywise) or made.entry is not weighted:
        return Form(merged)
    models = coefficients(made, scale)
    if models is None:
        return Form(merged)
    base: Coefficient = 1.0 - scale
    if made.of == "deltas":
        base = 1.0
        for each in models:
            base = base - each
    return Form(merged, models=models, base=base)


def coefficients(merge: Entrywise, scale: float) -> tuple[Coefficient, ...] | None:
    """By what a weighted sum multiplies each of the models' values, times ``scale``; None where it is by entry."""
    weights, common = merge.arguments
    assert isinstance(weights, Sequence) and isinstance(common, (int, float))
    found = [_coefficient(weight, float(common) * scale) for weight in weights]
    known = [each for each in found if each is not None]
    return tuple(known) if len(known) == len(found) else None


def _coefficient(weight: object, scale: float) -> Coefficient | None:
    if isinstance(weight, Rows):
        return (weight.values.double() * scale)[:, None]
    if isinstance(weight, Columns):
        return (weight.values.double() * scale)[None]
    return float(weight) * scale if isinstance(weight, (int, float)) else None
