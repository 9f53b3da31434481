"""Descent on row weights: behind a search, from what its optimizer recommends.

The recipe keeps its groups; each of its weights gets a factor for every row, 1 at first, and Adam moves them
by slopes on minibatches of search items. Then the mean of the second half of the steps is compared with what
it began at, on search items by which no slope was taken, and joins the shortlist.

Batches come one after the other, whatever the lag. All that is known here follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers.kernel.descent import Descent
from evomerge.recipe import Recipe
from evomerge.rows import RowWeights
from evomerge.space import SearchSpace
from evomerge.space.parts.rows import RowSpec

Slope = NDArray[np.float64]


class RowDescent:
    """See the module's text.

    Args:
        space: has row weights.
        start: a recipe of it.
    """

    def __init__(self, space: SearchSpace, start: Recipe) -> None:
        assert space.rows is not None
        self.start, self._spec = start, space.rows
        self._ones = space.row_weights(start)
        size, span = self._ones.size, self._spec.high - self._spec.low
        self._descent = Descent(
            ((1 - self._spec.low) / span,) * size,
            range(size),
            [True] * size,
            self._spec.steps,
            self._spec.rate / span,
        )
        self._compared = False

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return len(self._descent.points)

    @property
    def comparing(self) -> bool:
        """Whether all steps were made: what was found is to be compared."""
        return self._descent.done or not self._ones.size

    @property
    def over(self) -> bool:
        """Whether nothing is left to be asked."""
        return self._compared or not self._ones.size

    @property
    def point(self) -> Recipe:
        """Where the next slope is wanted."""
        return self._at(self._descent.point)

    @cached_property
    def found(self) -> Recipe:
        """What the steps led to; ask when all were made."""
        return self._at(self._descent.mean)

    def move(self, slope: Slope | None) -> None:
        """One step along the derivative of the score by every row weight; None: the point failed."""
        if slope is None:
            self._descent.back()
        else:
            self._descent.move(slope)  # type: ignore[arg-type]

    def end(self) -> None:
        """What was found was compared."""
        self._compared = True

    def _at(self, genes: Sequence[float]) -> Recipe:
        spec: RowSpec = self._spec
        factors = spec.low + np.array(genes) * (spec.high - spec.low)
        return with_rows(self.start, self._ones.moved(factors))


def with_rows(recipe: Recipe, rows: RowWeights) -> Recipe:
    """The recipe with other row weights."""
    return replace(recipe, body=replace(recipe.body, rows=rows))
