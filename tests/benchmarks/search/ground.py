"""What contestants search on, and what they leave behind: grounds and traces.

A ground has items (questions, by number), forms (spaces of genomes over the same recipes) and a truth that nobody
who searches may ask. All scores are maximised; a task's score is the mean response to its items, the combined
score the plain mean over tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.params import Dim, Genome

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

BACKWARD = 3  # item-forwards that one item forward and backward counts as
SHARES = (0.10, 0.25, 0.50, 1.00)  # of a budget


@dataclass(frozen=True)
class Point:
    """A recipe: a genome of a form."""

    form: str
    genome: Genome


@dataclass(frozen=True)
class Moment:
    """From so many item-forwards on, a contestant would have answered ``point``.

    ``claimed`` is the score it saw for it; None if it saw none.
    """

    items: int
    point: Point
    claimed: float | None = None


@dataclass
class Trace:
    """What a contestant did.

    Attributes:
        moments: in order of items.
        spent: item-forwards in all.
        front: what it would offer to someone with preferences, at most ``FRONT``, at the end.
    """

    moments: list[Moment] = field(default_factory=list)
    spent: int = 0
    front: list[Point] = field(default_factory=list)

    def answer(self, items: float) -> Moment | None:
        """What it would have answered after so many item-forwards; None before it had anything."""
        return next((m for m in reversed(self.moments) if m.items <= items), None)

    def note(self, point: Point, claimed: float | None = None) -> None:
        """From now on it would answer ``point``."""
        self.moments.append(Moment(self.spent, point, claimed))


FRONT = 8


class Ground(ABC):
    """What is searched.

    Attributes:
        tasks: task of each item that may be asked, ``[items]``, numbered from 0.
        names: of the tasks.
        seed: of the draws of items.
        largest: the weight of a model that a gene of 1 means in the form ``layers``.
    """

    largest: float = 1.5
    tasks: Numbers
    names: tuple[str, ...]
    seed: int

    @property
    @abstractmethod
    def forms(self) -> Sequence[str]:
        """Names of the spaces that there are."""

    @abstractmethod
    def dims(self, form: str) -> tuple[Dim, ...]:
        """Axes of a form."""

    def levels(self, form: str) -> Mapping[str, Sequence[int]]:
        """Levels of detail, coarse to fine: the class of each axis. None is that of the axes alone."""
        return {}

    @abstractmethod
    def starts(self, form: str) -> Mapping[str, Genome]:
        """Known recipes that the form holds."""

    @abstractmethod
    def answers(self, point: Point, items: Numbers) -> Array | None:
        """Responses ``[items]``, most often 0 or 1; None for a recipe that fails."""

    @abstractmethod
    def slope(self, point: Point, items: Numbers) -> Array:
        """Derivatives ``[tasks, dims]`` of each task's bounded loss on ``items`` by every gene; 0 by one not real."""

    @abstractmethod
    def true(self, point: Point) -> Array | None:
        """The true score of each task, ``[tasks]``; None for a recipe that fails."""

    def known(self) -> Mapping[str, Point]:
        """Known recipes, of whatever form."""
        return {label: Point("groups", genome) for label, genome in self.starts("groups").items()}

    def scores(self, answers: Array, items: Numbers) -> Array:
        """Mean response, task by task, ``[tasks]``."""
        tasks = self.tasks[items]
        return np.array([answers[tasks == task].mean() for task in range(len(self.names))])

    def draw(self, count: int, *key: seeds.Part) -> Numbers:
        """``count`` items of each task, or all it has, under a key; a larger count only adds."""
        order = seeds.generator("ground", self.seed, *key).permutation(len(self.tasks))
        tasks = self.tasks[order]
        return np.sort(
            np.concatenate([order[tasks == task][:count] for task in range(len(self.names))])
        )


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that ``points`` dominate above ``reference``, maximised; by slices along the last axis."""
    above = [p for p in points if all(a > r for a, r in zip(p, reference, strict=True))]
    if not above:
        return 0.0
    if len(reference) == 1:
        return max(p[0] for p in above) - reference[0]
    levels = sorted({p[-1] for p in above})
    total, low = 0.0, reference[-1]
    for level in levels:
        slab = [p[:-1] for p in above if p[-1] >= level]
        total += (level - low) * hypervolume(slab, reference[:-1])
        low = level
    return total
