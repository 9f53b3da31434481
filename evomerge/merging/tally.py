"""What rounding takes of a merge, counted while it is made: see ``evomerge.rounding``.

Of a large tensor a sample is looked at: short runs of entries, spread evenly, the same at every merge. The sample
counts for the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from evomerge import seeds
from evomerge.checkpoint import DTYPES
from evomerge.recipe import BASE, Group, Recipe
from evomerge.rounding import Rounding

if TYPE_CHECKING:
    import torch

ENTRIES = 1 << 14  # of a tensor that are looked at, at most ...
RUN = 1 << 6  # ... in runs of so many: neighbours lie in one page of memory
DIGITS = 6  # of a share


class Tally:
    """Sums of squares, tensor by tensor; ``look`` may be called from several threads.

    Args:
        recipe: what is merged.
        whole: whether it is shown all tensors.
    """

    def __init__(self, recipe: Recipe, *, whole: bool = True) -> None:
        self._recipe, self._sampled = recipe, not whole
        self.origin = BASE if recipe.base is not None else next(iter(recipe.models))
        self._numbers = {id(group): number for number, group in enumerate(recipe.groups)}
        # tensor -> its group, the square of its change, and the square of what each dtype takes
        self._found: dict[str, tuple[int, float, dict[str, float]]] = {}

    def look(
        self,
        group: Group,
        name: str,
        origin: torch.Tensor,
        exact: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Count a tensor; one that no group of the recipe names (a tower that is kept) does not count.

        Args:
            group: that merges it.
            name: of the tensor.
            origin: what it changes [*shape].
            exact: the float32 merge [n] at flat indices [n].
        """
        import torch

        number, size = self._numbers.get(id(group)), origin.numel()
        if number is None or size == 0:
            return
        at = torch.from_numpy(indices(name, size)).to(origin.device)
        self._sampled |= len(at) < size
        merged = exact(at)
        change = _square(merged - origin.reshape(-1)[at].float())
        lost = {each: _square(merged.to(getattr(torch, each)) - merged) for each in DTYPES}
        scale = size / len(at)
        self._found[name] = (
            number,
            change * scale,
            {each: square * scale for each, square in lost.items()},
        )

    @property
    def rounding(self) -> Rounding:
        """The shares, so far."""
        shares: dict[int, dict[str, float]] = {}
        for number in range(len(self._recipe.groups)):
            # by name: sums do not depend on which thread was first
            own = [each for _, each in sorted(self._found.items()) if each[0] == number]
            change = sum(each[1] for each in own)
            if not 0 < change < math.inf:
                continue
            found = {
                dtype: math.sqrt(sum(each[2][dtype] for each in own) / change) for dtype in DTYPES
            }
            shares[number] = {
                dtype: round(share, DIGITS)
                for dtype, share in found.items()
                if math.isfinite(share)
            }
        recipe = self._recipe
        return Rounding(recipe.dtype, self.origin, len(recipe.groups), self._sampled, shares)


def indices(name: str, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Flat indices [n] of the entries that are looked at in a tensor of ``size`` entries; all of a small one."""
    if size <= ENTRIES:
        return np.arange(size)
    count = ENTRIES // RUN
    stratum = size // count
    offsets = seeds.uniforms(count, "rounding", name).astype(np.float64) * (stratum - RUN + 1)
    starts = np.arange(count) * stratum + offsets.astype(np.int64)
    return (starts[:, None] + np.arange(RUN)).reshape(-1)


def _square(values: torch.Tensor) -> float:
    return float(values.double().square().sum())
