"""Adam on the genes of one point, by slopes that are told.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   x <- x + rate m' / (sqrt(v') + e)

with m', v' corrected for their start at 0, and x kept inside [0, 1]. The rate falls geometrically to a
tenth over the planned steps. What is believed in is the mean of the second half of the points: single
points follow the last minibatch.

Paper: Kingma & Ba 2015, "Adam", https://arxiv.org/abs/1412.6980; Polyak & Juditsky 1992 (the mean).
Deviations: ascent, of a score; slopes are summed over axes that move together, and shared by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evomerge.params import Genome

B1, B2, TINY = 0.9, 0.999, 1e-8
FALL = 0.1  # what is left of the rate at the last planned step

Array = NDArray[np.float64]


@dataclass
class Descent:
    """A point, and what its slopes have said.

    Attributes:
        start: the first point.
        classes: the class of each axis; those of one class move together.
        moving: for each axis, whether it moves at all.
        steps: that are planned.
        rate: of the first step, as a part of each range.
    """

    start: Genome
    classes: Sequence[int]
    moving: Sequence[bool]
    steps: int
    rate: float
    points: list[Array] = field(default_factory=list)  # after each step

    def __post_init__(self) -> None:
        size = max(self.classes) + 1
        self._m, self._v = np.zeros(size), np.zeros(size)
        self._classes = np.array(self.classes, np.int64)
        self._moving = np.array(self.moving, bool)

    @property
    def point(self) -> list[float]:
        """Where the next slope is wanted."""
        point: list[float] = self._point.tolist()
        return point

    @property
    def _point(self) -> Array:
        return self.points[-1] if self.points else np.array(self.start)

    @property
    def moved(self) -> bool:
        """Whether any step went anywhere."""
        return bool(self.points) and bool((self.points[-1] != np.array(self.start)).any())

    @property
    def done(self) -> bool:
        """Whether all planned steps were made."""
        return len(self.points) >= self.steps

    def move(self, slope: Sequence[float]) -> None:
        """One step along ``slope``, the derivative of the score by every gene."""
        count = len(self.points) + 1
        found = np.where(self._moving, np.array(slope), 0.0)
        summed = np.bincount(self._classes, found, len(self._m))
        self._m = B1 * self._m + (1 - B1) * summed
        self._v = B2 * self._v + (1 - B2) * summed**2
        m, v = self._m / (1 - B1**count), self._v / (1 - B2**count)
        rate = self.rate * FALL ** min(1.0, (count - 1) / max(1, self.steps - 1))
        step = np.where(self._moving, (rate * m / (np.sqrt(v) + TINY))[self._classes], 0.0)
        self.points.append(np.clip(self._point + step, 0.0, 1.0))

    def back(self) -> None:
        """The last point failed: the next is halfway between it and the one before."""
        before = self.points[-2] if len(self.points) > 1 else np.array(self.start)
        self.points.append((self._point + before) / 2)

    @property
    def mean(self) -> list[float]:
        """Of the second half of the points."""
        half = self.points[len(self.points) // 2 :] or [self._point]
        mean: list[float] = np.mean(half, axis=0).tolist()
        return mean
