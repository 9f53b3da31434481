"""The models that are merged: opened, checked against each other, aligned, and what was measured of them."""

from evomerge.parents.alignment import check_compatible
from evomerge.parents.parents import Parents

__all__ = ["Parents", "check_compatible"]
