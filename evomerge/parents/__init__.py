"""The models that are merged: opened, checked against each other, aligned, and what was measured of them."""

from evomerge.parents.alignment import check_compatible
from evomerge.parents.doubts import doubts
from evomerge.parents.ending import ending_notes
from evomerge.parents.parents import Parents

__all__ = ["Parents", "check_compatible", "doubts", "ending_notes"]
