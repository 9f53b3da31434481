"""From gradients of merged tensors to slopes by a recipe's coefficients, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evomerge.engines import Differentiable
from evomerge.merging import Merge
from evomerge.params import ALL, Derivatives
from evomerge.rows import COLUMNS, Array, text_of
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
        rows: its derivative by every row weight, in the order of ``RowWeights.flat``, where these were asked
            for instead.
    """

    merit: float
    items: int
    tensors: Derivatives = field(default_factory=dict)
    rows: Array | None = None


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

    def take(name: str, gradient: Tensor) -> None:
        own = found.setdefault(merge.outline.places[name].tensor, {})
        for parameter, model, tangent in merge.tangents(name):
            by_model = own.setdefault(parameter, {})
            product = float((gradient.float() * tangent.view(gradient.shape)).sum())
            by_model[model or ALL] = by_model.get(model or ALL, 0.0) + product

    merit = descend(engine, lessons, loss, take, checkpoint=checkpoint) if lessons else 0.0
    return Slope(merit, len(lessons), found)


def row_slope(
    engine: Differentiable,
    merge: Merge,
    lessons: Sequence[Lesson],
    loss: Loss,
    *,
    checkpoint: bool = False,
) -> Slope:
    """As ``slope``, by the row weights: each row's own share of the derivative by a weight, or each column's."""
    rows = merge.recipe.body.rows
    assert rows is not None
    found = {
        tensor: {model: torch.zeros(len(each), dtype=torch.float64) for model, each in by.items()}
        for tensor, by in rows.vectors.items()
    }

    def take(name: str, gradient: Tensor) -> None:
        for model, tangent in merge.row_tangents(name):
            product = gradient.float() * tangent.view(gradient.shape)
            if product.ndim > 1:
                product = product.flatten(1).sum(0 if rows.by == COLUMNS else 1)
            found[merge.outline.places[name].tensor][model] += product.cpu().double()

    merit = descend(engine, lessons, loss, take, checkpoint=checkpoint) if lessons else 0.0
    flat = torch.cat([found[tensor][model] for tensor, model, _ in rows.spans()])
    return Slope(merit, len(lessons), rows=flat.float().numpy())


def plain(slopes: Mapping[str, Slope]) -> dict[str, dict[str, object]]:
    """As JSON holds it: scorer -> its slope; derivatives by rows as the text of their bytes."""
    return {
        name: {
            "merit": each.merit,
            "items": each.items,
            "tensors": each.tensors,
            **({} if each.rows is None else {"rows": text_of(each.rows)}),
        }
        for name, each in slopes.items()
    }
