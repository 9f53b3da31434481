"""Functions whose optimum is known, with items that are draws of noise (tier T0).

Axes are genes in [0, 1]; every function is 1 at its optimum and falls to about 0. The response to an item is the
value plus noise: a part that the item fixes, and a part that item and genome fix together, as in merges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from evomerge import seeds
from evomerge.params import Dim, Genome
from tests.benchmarks.search.ground import Array, Ground, Numbers, Point

ITEMS = 400
AXES = 10
OPTIONS = 4


def sphere(x: Array) -> float:
    return float(1 - 4 * np.mean(x**2))


def ellipsoid(x: Array) -> float:
    """Condition 1,000."""
    scale = 1000 ** np.linspace(0, -1, len(x))
    return float(1 - 4 * (scale * x**2).sum() / scale.sum())


def rastrigin(x: Array) -> float:
    """Four waves a range, as high as the bowl is deep half way."""
    return float(1 - 4 * np.mean(x**2) - 0.15 * np.mean(1 - np.cos(8 * math.pi * x)))


FUNCTIONS: Mapping[str, Callable[[Array], float]] = {
    "sphere": sphere,
    "ellipsoid": ellipsoid,
    "rastrigin": rastrigin,
}
KINDS = (*FUNCTIONS, "mixed", "conditional", "noisy")


class Analytic(Ground):
    """The function ``kind``, its optimum shifted by the seed.

    ``mixed`` adds integer and categorical axes whose right cells are worth as much as the rest; in ``conditional`` half
    of the real axes count only while a category has one value; ``noisy`` is a sphere with four times the noise.
    """

    names = ("value",)

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.tasks = np.zeros(ITEMS, int)
        rng = seeds.generator("analytic", kind, seed)
        self._optimum = rng.uniform(0.2, 0.8, AXES)
        self._right = rng.integers(0, OPTIONS, 4)
        self._noise = (2.0 if kind == "noisy" else 0.5) * rng.standard_normal(ITEMS)

    @property
    def forms(self) -> tuple[str, ...]:
        return ("groups",)

    def dims(self, form: str) -> tuple[Dim, ...]:
        real = tuple(Dim(f"x{axis}", "real") for axis in range(AXES))
        if self.kind == "mixed":
            more = [("integer", n) for n in range(2)] + [("categorical", n) for n in range(2, 4)]
            return (*real, *(Dim(f"c{n}", kind, OPTIONS) for kind, n in more))  # type: ignore[arg-type]
        if self.kind == "conditional":
            return (*real, Dim("switch", "categorical", OPTIONS))
        return real

    def starts(self, form: str) -> Mapping[str, Genome]:
        """The middle, and a corner."""
        size = len(self.dims(form))
        return {"middle": (0.5,) * size, "corner": (0.125,) * size}

    def answers(self, point: Point, items: Numbers) -> Array:
        own = seeds.generator("analytic", self.seed, "own", *map(str, point.genome))
        found: Array = self._value(point.genome) + self._noise[items]
        return found + 0.3 * own.standard_normal(ITEMS)[items]

    def slope(self, point: Point, items: Numbers) -> Array:
        """By finite differences over real axes; the loss is minus the value."""
        found, step = np.zeros(len(point.genome)), 1e-5
        for axis, dim in enumerate(self.dims(point.form)):
            if dim.kind == "real":
                ends = []
                for sign in (1, -1):
                    genes = list(point.genome)
                    genes[axis] += sign * step
                    ends.append(self._value(tuple(genes)))
                found[axis] = -(ends[0] - ends[1]) / (2 * step)
        noise = seeds.generator("analytic", self.seed, "slope", *items.tolist())
        real = [dim.kind == "real" for dim in self.dims(point.form)]
        found += np.where(real, noise.standard_normal(len(found)) / math.sqrt(len(items)), 0)
        return found[None]

    def true(self, point: Point) -> Array:
        return np.array([self._value(point.genome)])

    def _value(self, genome: Genome) -> float:
        genes = np.array(genome)
        x = genes[:AXES] - self._optimum
        cells = np.clip((genes[AXES:] * OPTIONS).astype(int), 0, OPTIONS - 1)
        if self.kind == "mixed":
            distance = np.abs(cells - self._right)
            distance[2:] = distance[2:] > 0
            return 0.5 * sphere(x) + 0.5 * float(1 - distance.mean())
        if self.kind == "conditional":
            on = cells[0] == self._right[0]
            return 0.5 * sphere(x[: AXES // 2]) + (0.5 * sphere(x[AXES // 2 :]) if on else 0.0)
        return FUNCTIONS.get(self.kind, sphere)(x)
