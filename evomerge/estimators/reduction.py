"""A reduced suite: a few anchor items with weights that stand for all, and what that costs.

Items are parted into cells of nearly equal size that known models answer alike, and one item is
drawn from each. So every item has the same chance, and a model that is unlike the known ones is
misjudged no worse than by random items; k-means centres are typical items, which are easier or harder
than the others (with three known models they missed twice what random items do).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from evomerge import seeds
from evomerge.blas import one_thread
from evomerge.errors import InputError
from evomerge.estimators import Known
from evomerge.estimators.anchors import represent
from evomerge.inference.intervals import NORMAL

ROUNDS = 20  # at most so many models, or groups of them, are left out in turn


@dataclass(frozen=True)
class Error:
    """What a reduced objective misses of the full one, for models that it was not made from.

    Attributes:
        missed: estimate less truth of each model, from anchors chosen without it.
        random: root mean square of what as many random items would miss.
        best: what is missed of the model with the highest value. It is beyond all others, as a
            search's candidates are: expect this rather than ``size`` if it is larger.
    """

    missed: Float[np.ndarray, " models"]
    random: float
    best: float

    @property
    def size(self) -> float:
        """Root mean square of ``missed``."""
        return float(np.sqrt(np.mean(self.missed**2)))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bounds of ``size``, as if models were a random sample: wide if they are few."""
        count = len(self.missed)
        return (
            self.size * math.sqrt(count / _chi_square(count, NORMAL)),
            self.size * math.sqrt(count / _chi_square(count, -NORMAL)),
        )

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"±{self.size:.3f} [{low:.3f}, {high:.3f}] from {len(self.missed)} models "
            f"(random items: ±{self.random:.3f}, exact for these models; the best model, left out once: "
            f"{self.best:+.3f})"
        )


@dataclass(frozen=True)
class Reduction:
    """Anchors of one scorer.

    Attributes:
        items: numbers of the chosen items, ascending.
        weights: of the items; they sum to 1.
        errors: by objective.
    """

    items: Int[np.ndarray, " anchors"]
    weights: Float[np.ndarray, " anchors"]
    errors: Mapping[str, Error]


@one_thread()
def reduce(
    objectives: Mapping[str, Float[np.ndarray, "models items"]],
    strata: Int[np.ndarray, " items"],
    count: int,
    *key: seeds.Part,
    margins: Float[np.ndarray, "models items"] | None = None,
) -> Reduction:
    """``count`` items that stand for all of a scorer's, chosen by how known models answer them.

    Args:
        objectives: the scorer's objectives: responses of models to all items, whose means they are.
        strata: a code per item; items of different strata seldom stand for each other.
        count: of anchors.
        key: names the draw.
        margins: as in ``estimators.Known``.

    Raises:
        InputError: fewer than three models, which say next to nothing about the error, or a
            ``count`` that is not below the number of items.
    """
    models, size = next(iter(objectives.values())).shape
    if models < 3:
        raise InputError(f"{models} models are too few to choose items by; give at least 3")
    if not 0 < count < size:
        raise InputError(
            f"{count} of {size} items is no reduction; give a number from 1 to {size - 1}"
        )
    items, weights = _anchors(objectives, strata, count, margins, *key)
    missed = {name: np.empty(models) for name in objectives}
    for group in range(min(models, ROUNDS)):
        out = np.arange(models) % ROUNDS == group
        others = {name: responses[~out] for name, responses in objectives.items()}
        chosen, shares = _anchors(
            others, strata, count, None if margins is None else margins[~out], *key
        )
        for name, responses in objectives.items():
            missed[name][out] = responses[out][:, chosen] @ shares - responses[out].mean(1)
    return Reduction(
        items,
        weights,
        {
            name: Error(
                missed[name],
                math.sqrt(responses.var(1).mean() / count * (size - count) / (size - 1)),
                float(missed[name][np.argmax(responses.mean(1))]),
            )
            for name, responses in objectives.items()
        },
    )


def _anchors(
    objectives: Mapping[str, Float[np.ndarray, "models items"]],
    strata: Int[np.ndarray, " items"],
    count: int,
    margins: Float[np.ndarray, "models items"] | None,
    *key: seeds.Part,
) -> tuple[Int[np.ndarray, " anchors"], Float[np.ndarray, " anchors"]]:
    """One item of each cell, any with the same chance, and the cells' shares of all items."""
    points = np.hstack([represent(Known(r, strata, margins)) for r in objectives.values()])
    mixed = np.argsort(seeds.uniforms(len(points), "cells", *key))  # parts equal items at random
    cells, luck = _halve(points, mixed, count), seeds.uniforms(len(points), "anchors", *key)
    items = np.array([cell[np.argmin(luck[cell])] for cell in cells])
    weights = np.array([len(cell) for cell in cells]) / len(points)
    order = np.argsort(items)
    return items[order], weights[order]


def _halve(
    points: Float[np.ndarray, "items features"], cell: Int[np.ndarray, " some"], count: int
) -> list[Int[np.ndarray, " fewer"]]:
    """``count`` parts of ``cell``, of nearly equal size, cut across where its items differ most."""
    if count == 1:
        return [cell]
    here = points[cell] - points[cell].mean(0)
    widest = np.linalg.eigh(here.T @ here)[1][:, -1]
    ordered = cell[np.argsort(here @ widest, kind="stable")]
    first = count // 2
    cut = round(len(cell) * first / count)
    return [*_halve(points, ordered[:cut], first), *_halve(points, ordered[cut:], count - first)]


def _chi_square(degrees: int, z: float) -> float:
    """Its quantile at the normal quantile ``z`` (Wilson & Hilferty 1931)."""
    spread = 2 / (9 * degrees)
    return degrees * max(1 - spread + z * math.sqrt(spread), 0.05) ** 3
