"""What optimizers have in common that walk from the best known recipe by slopes, one candidate a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.params import Genome, Value


class Walk(Optimizer):
    """Asks for the slope of one point, and makes a step by it.

    With a lag, slopes are of points that a few steps were made since: the step is made from the newest.
    """

    SLOPES: ClassVar[bool] = True
    FEWER: ClassVar[bool] = True
    observed = 1

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._best: Told | None = None
        self._begun = False

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 1

    def _begin(self, genome: Genome) -> None:
        self.begin(genome)
        self._begun = True

    @abstractmethod
    def begin(self, genome: Genome) -> None:
        """Start at the best known recipe; forget any other start."""

    @abstractmethod
    def move(self, slope: Sequence[float]) -> None:
        """One step along ``slope``, the derivative of the score by every gene."""

    @abstractmethod
    def back(self) -> None:
        """The last point failed: half of the last step is taken back."""

    @property
    @abstractmethod
    def point(self) -> Sequence[float]:
        """Where the next slope is wanted; begun."""

    @property
    def believed(self) -> Sequence[float]:
        """What is recommended; begun."""
        return self.point

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        if not seen:
            for each in told:
                if each.score is not None and (self._best is None or each.merit < self._best.merit):
                    self._best = each
            if self._best is not None:
                self._begin(self._best.genome)
            return
        if not self._begun:
            self._begin(self._centre)
        for each in told:
            if each.slope is not None:
                self.move(each.slope)
            else:
                self.back()

    def ask(self, count: int, batch: int) -> list[Ask]:
        point = self.point if self._begun else self._centre
        return [Ask(canonical(self.dims, point), slope=True)]

    def recommend(self, count: int) -> list[Genome]:
        if self._best is None:
            return []
        return [canonical(self.dims, self.believed)][:count]

    @property
    def _centre(self) -> Genome:
        return canonical(self.dims, [0.5] * len(self.dims))
