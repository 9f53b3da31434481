"""What rounding takes of a merge, counted while it is made: see ``evomerge.rounding``.

Merging is bound by memory, so a merge of a large model is sampled: of a group of many tensors some, the larger the
likelier, and of a large tensor short runs of entries, spread evenly. All are keyed, the same at every merge, and
count for the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from evomerge import seeds
from evomerge.checkpoint import DTYPES
from evomerge.merging.blueprint import Site
from evomerge.recipe import BASE, Recipe
from evomerge.rounding import Rounding

if TYPE_CHECKING:
    import torch

TENSORS = 64  # of a group that are looked at, about; all if it has no more
WHOLE = 1 << 14  # entries of a tensor that are all looked at; of a larger one ...
ENTRIES = 1 << 12  # ... so many ...
RUN = 1 << 5  # ... in runs of so many: neighbours lie in one page of memory
DIGITS = 6  # of a share


class Tally:
    """Sums of squares, tensor by tensor; ``look`` may be called from several threads.

    Args:
        recipe: what is merged.
        sites: the tensors that are merged, or some of them.
        whole: whether they are all of the model's.
    """

    def __init__(self, recipe: Recipe, sites: Iterable[Site], *, whole: bool = True) -> None:
        self.origin = BASE if recipe.base is not None else next(iter(recipe.models))
        self._recipe = recipe
        numbers = {id(group): number for number, group in enumerate(recipe.groups)}
        members: dict[int, dict[str, int]] = {}
        for site in sites:
            # a path's, not the merge's; and what there is no change of
            if site.model or site.factor != 1.0 or self.origin in site.place.absent:
                continue
            # a tower that is kept is in no group of the recipe
            if (number := numbers.get(id(recipe.group_of(site.place)))) is not None:
                members.setdefault(number, {})[site.name] = math.prod(site.shape)
        # tensor -> its group, and how likely it is looked at
        self._looked = {
            name: (number, chance)
            for number, sizes in members.items()
            for name, chance in _chances(sizes).items()
            if seeds.unit("rounding", "looked at", name) < chance
        }
        self._sampled = not whole or len(self._looked) < sum(map(len, members.values()))
        # tensor -> the square of its change, and of what each dtype takes
        self._found: dict[str, tuple[float, dict[str, float]]] = {}

    def wants(self, name: str) -> bool:
        """Whether a tensor is looked at."""
        return name in self._looked

    def look(
        self,
        name: str,
        origin: torch.Tensor,
        exact: Callable[[torch.Tensor], torch.Tensor],
        *,
        share: float = 1.0,
    ) -> None:
        """Count a tensor that is wanted.

        Args:
            name: of the tensor.
            origin: what it changes [*shape].
            exact: the float32 merge [n] at flat indices [n].
            share: of the tensor that is looked at, where that is a part of it.
        """
        import torch

        size = origin.numel()
        if size == 0:
            return
        at = torch.from_numpy(indices(name, size)).to(origin.device)
        self._sampled |= len(at) < size or share < 1
        merged = exact(at)
        change = _square(merged - origin.reshape(-1)[at].float())
        lost = {each: _square(merged.to(getattr(torch, each)) - merged) for each in DTYPES}
        scale = size / len(at) / self._looked[name][1] / share
        self._found[name] = (
            change * scale,
            {each: square * scale for each, square in lost.items()},
        )

    @property
    def rounding(self) -> Rounding:
        """The shares, so far."""
        shares: dict[int, dict[str, float]] = {}
        for number in range(len(self._recipe.groups)):
            # by name: sums do not depend on which thread was first
            own = [each for n, each in sorted(self._found.items()) if self._looked[n][0] == number]
            change = sum(square for square, _ in own)
            if not 0 < change < math.inf:
                continue
            found = {
                name: math.sqrt(sum(lost[name] for _, lost in own) / change) for name in DTYPES
            }
            shares[number] = {
                name: round(share, DIGITS) for name, share in found.items() if math.isfinite(share)
            }
        recipe = self._recipe
        return Rounding(recipe.dtype, self.origin, len(recipe.groups), self._sampled, shares)


def indices(name: str, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Flat indices [n] of the entries that are looked at in a tensor of ``size`` entries."""
    if size <= WHOLE:
        return np.arange(size)
    count = ENTRIES // RUN
    stratum = size // count
    offsets = seeds.uniforms(count, "rounding", name).astype(np.float64) * (stratum - RUN + 1)
    starts = np.arange(count) * stratum + offsets.astype(np.int64)
    return (starts[:, None] + np.arange(RUN)).reshape(-1)


def _chances(sizes: dict[str, int]) -> dict[str, float]:
    """How likely each tensor of a group is looked at: by its size, about ``TENSORS`` in all."""
    if len(sizes) <= TENSORS:
        return dict.fromkeys(sizes, 1.0)
    total = sum(sizes.values()) or 1
    return {name: min(1.0, TENSORS * size / total) for name, size in sizes.items()}


def _square(values: torch.Tensor) -> float:
    wide = values.double()
    return float(wide @ wide)
