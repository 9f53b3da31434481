"""What a model has read, in whatever form it keeps it: made once for what all inputs begin with, then repeated."""

from __future__ import annotations

import copy

import torch
from transformers import DynamicCache


class States(DynamicCache):  # type: ignore[misc]
    """The cache that a model's own config asks for, recurrent states and windows included.

    Rows continue it side by side; unlike ``KeyValues`` it cannot be read by several branches of one row.
    """

    def repeated(self, rows: int) -> States:
        """The one row of this cache, ``rows`` times."""
        found = copy.deepcopy(self)
        found.reorder_cache(torch.zeros(rows, dtype=torch.long))
        return found
