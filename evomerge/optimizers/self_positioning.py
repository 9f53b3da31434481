"""Self Positioning: gradient ascent on as few numbers as there are: a weight a source, and their common scale.

    x <- x + rate_t g / max |g so far|

on the coarsest level of detail that the space has, where all values of one kind and source move together. So a
few items suffice, and nothing can be fitted to them but the position of the merge among its sources. A space of
task arithmetic in which ``lambda`` varies, too, is the paper's own: weights and the overall scale.

Paper: Li et al. 2024, "Improving General Text Embedding Model", https://arxiv.org/abs/2410.15035 (Self Positioning:
    task vectors weighted and scaled by SGD on a probe set).
Deviations: the suite's loss in place of a contrastive one, which takes models of sentences; steps are parts of
    each range, and fall to a tenth; the mean of the second half of the points is recommended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers import Problem
from evomerge.optimizers.kernel.descent import FALL
from evomerge.optimizers.kernel.walk import Walk
from evomerge.optimizers.slope import RATE, STEPS
from evomerge.params import Genome, Level, Parameter, Value

Array = NDArray[np.float64]


class SelfPositioning(Walk):
    """See the module's text. Axes without a slope stay where the best known recipe has them."""

    name: ClassVar[str] = "self_positioning"
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (RATE, STEPS)

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        levels = problem.levels or (Level("all", tuple(range(len(self.dims)))),)
        self._classes = np.array(levels[0].classes, np.int64)
        self._moving = np.array(problem.smooth or [False] * len(self.dims), bool)
        self._largest = 0.0
        self._points: list[Array] = [np.full(len(self.dims), 0.5)]

    def begin(self, genome: Genome) -> None:
        self._points = [np.array(genome)]

    def move(self, slope: Sequence[float]) -> None:
        summed = np.bincount(self._classes, np.where(self._moving, np.array(slope), 0.0))
        self._largest = max(self._largest, float(np.abs(summed).max()))
        steps = max(1, cast(int, self.options["steps"]) - 1)
        rate = cast(float, self.options["rate"]) * FALL ** min(1.0, (len(self._points) - 1) / steps)
        step = np.where(self._moving, summed[self._classes], 0.0)
        if self._largest:
            step = rate * step / self._largest
        self._points.append(np.clip(self._points[-1] + step, 0.0, 1.0))

    def back(self) -> None:
        before = self._points[-2] if len(self._points) > 1 else self._points[0]
        self._points.append((self._points[-1] + before) / 2)

    @property
    def point(self) -> Sequence[float]:
        found: list[float] = self._points[-1].tolist()
        return found

    @property
    def believed(self) -> Sequence[float]:
        found: list[float] = np.mean(self._points[len(self._points) // 2 :], axis=0).tolist()
        return found
