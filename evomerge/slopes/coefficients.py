"""From gradients of merged tensors to slopes by a recipe's coefficients, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from evomerge.engines import Differentiable
from evomerge.merging import Merge
from evomerge.params import ALL, Derivatives
from evomerge.scorers.lessons import Lesson
from evomerge.slopes.backward import descend
from evomerge.slopes.losses import Loss


@dataclass
class Slope:
    """What one scorer's lessons say of a candidate.

    Attributes:
        merit: the mean merit of the lessons.
        items: how many there were.
        tensors: its derivative by every coefficient of every tensor.
    """

    merit: float
    items: int
    tensors: Derivatives = field(default_factory=dict)


def slope(
    engine: Differentiable,
    merge: Merge,
    lessons: Sequence[Lesson],
    loss: Loss,
    *,
    checkpoint: bool = False,
) -> Slope:
    """The slope of ``merge``, which the engine runs, by what ``lessons`` ask; see ``descend``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    tangents = merge.tangents()

    def take(name: str, gradient: Tensor) -> None:
        own = found.setdefault(name, {})
        for parameter, model, tangent in tangents(name):
            by_model = own.setdefault(parameter, {})
            product = float((gradient.float() * tangent.view(gradient.shape)).sum())
            by_model[model or ALL] = by_model.get(model or ALL, 0.0) + product

    merit = descend(engine, lessons, loss, take, checkpoint=checkpoint) if lessons else 0.0
    return Slope(merit, len(lessons), found)


def plain(slopes: Mapping[str, Slope]) -> dict[str, dict[str, object]]:
    """As JSON holds it: scorer -> its slope."""
    return {
        name: {"merit": each.merit, "items": each.items, "tensors": each.tensors}
        for name, each in slopes.items()
    }
