"""What known methods reach on the frontier: a grid of settings each, then finer about the best of them.

The grid is coarse. Then, at each floor, the recipes that keep most and that combine best are taken, by the truth, and
every setting of theirs is moved by half the grid's step, each by itself, and every choice is changed; after
that by a quarter. So a known method has what no search of one has: its settings are chosen by true scores.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evomerge import methods
from evomerge.params import Real
from evomerge.recipe import Body, Recipe, group
from evomerge.run.preflight import Run
from tests.benchmarks.search.frontier_rows import FLOORS, Reached, Scale, best
from tests.benchmarks.search.truth import Truth

ROUNDS = 2  # of refinement
Settings = Mapping[str, Any]  # parameter, or PARAMETER.MODEL -> value; ``seed`` is the recipe's


@dataclass(frozen=True)
class Grid:
    """Settings of a method.

    Attributes:
        axes: parameter, or PARAMETER.MODEL -> values; the smallest gap is its step. One of each model's that
            names no model has the same value for all at first.
        choices: what else is tried about the best.
    """

    axes: Mapping[str, tuple[float, ...]]
    fixed: Settings = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


SPARSE = {"rescale": (True, False), "scope": ("tensor", "model")}
GRIDS: Mapping[str, tuple[Grid, ...]] = {
    "task_arithmetic": (
        Grid(
            {
                "weight.chat": (0.5, 0.75, 1.0, 1.25, 1.5),
                "weight.sea": (0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
            }
        ),
    ),
    "widen": (
        Grid(
            {
                "above_average_value_ratio": (0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
                "score_calibration_value": (0.5, 0.75, 1.0, 1.25),
            }
        ),
    ),
    "ties": (
        # averaged where models agree: weights count by their ratio
        Grid(
            {"weight.sea": (0.5, 1.0, 2.0), "density": (0.3, 0.6, 1.0), "lambda": (1.0, 1.5)},
            {"weight.chat": 1.0, "normalize": True},
            SPARSE,
        ),
        # added up
        Grid(
            {
                "weight.chat": (0.5, 1.0, 1.5),
                "weight.sea": (0.5, 1.0, 1.5),
                "density": (0.3, 0.6, 1.0),
            },
            {"normalize": False},
            SPARSE,
        ),
    ),
    "dare_ties": (
        Grid(
            {
                "weight.chat": (0.75, 1.0, 1.25),
                "weight.sea": (0.5, 0.75, 1.0),
                "density": (0.3, 0.6, 0.9),
            },
            {"seed": 0, "normalize": False},
            {"seed": (0, 1, 2), "normalize": (False, True), "rescale": (True, "density")},
        ),
    ),
}


def arguments(settings: Settings) -> dict[str, Any]:
    """A method's arguments; a parameter that ``settings`` do not name has its default."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        parameter, _, model = name.partition(".")
        if model:
            values.setdefault(parameter, {})[model] = value
        elif name != "seed":
            values[name] = value
    return values


def recipe_of(job: Run, method: str, settings: Settings) -> Recipe:
    """The recipe of ``settings``."""
    body = Body((group(method, tuple(job.spec.sources), arguments(settings)),))
    seed = int(settings.get("seed", job.template.seed))
    return replace(job.template, seed=seed, body=body)


def points(method: str, grid: Grid, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The settings of a grid."""
    per_model = {p.name for p in methods.get(method).parameters if p.per_model}
    for values in itertools.product(*grid.axes.values()):
        found = dict(grid.fixed)
        for name, value in zip(grid.axes, values, strict=True):
            names = [f"{name}.{model}" for model in models] if name in per_model else [name]
            found |= dict.fromkeys(names, value)
        yield found


def neighbours(method: str, grid: Grid, settings: Settings, part: float) -> Iterator[Settings]:
    """Settings with one moved by ``part`` of its step, or chosen otherwise."""
    domains = {p.name: p.domain for p in methods.get(method).parameters}
    for name, value in settings.items():
        parameter = name.partition(".")[0]
        axis = grid.axes.get(name, grid.axes.get(parameter))
        if axis is None:
            continue
        step = min(b - a for a, b in itertools.pairwise(axis)) * part
        for moved in (round(value - step, 4), round(value + step, 4)):
            domain = domains[parameter]
            assert isinstance(domain, Real)
            if domain.problem(moved) is None and moved > 0:
                yield {**settings, name: moved}
    for name, values in grid.choices.items():
        if name in domains or name == "seed":
            default = 0 if name == "seed" else domains[name].default
            for value in values:
                if value != settings.get(name, default):
                    yield {**settings, name: value}


class Known:
    """Scores known recipes, as many as there is time for; those that are known already cost nothing.

    Args:
        truth: over the family.
        rows: what is known, the parents too.
        seconds: of CPU; None is no limit.
    """

    def __init__(self, truth: Truth, rows: Sequence[Reached], seconds: float | None = None) -> None:
        self.truth, self.rows = truth, [*rows]
        self._found = {row.key: row for row in rows}
        self._until = None if seconds is None else time.process_time() + seconds

    def parents(self) -> Iterator[Reached]:
        """Rows of the base and the parents."""
        for name, recipe in self.truth.job.space.references().items():
            yield from self._score("parent", {"model": name}, recipe)

    def fill(self, names: Sequence[str]) -> Iterator[Reached]:
        """Rows as they are found: parents, all methods' grids, then finer."""
        models = self.truth.job.spec.sources
        yield from self.parents()
        for method in names:
            for grid in GRIDS[method]:
                for settings in points(method, grid, models):
                    yield from self._asked(method, settings)
        for number in range(1, ROUNDS + 1):
            for method in names:
                for row, grid in self._leading(method):
                    for settings in neighbours(method, grid, row.settings, 0.5**number):
                        yield from self._asked(method, settings)

    def _asked(self, method: str, settings: Settings) -> Iterator[Reached]:
        yield from self._score(method, settings, recipe_of(self.truth.job, method, settings))

    def _leading(self, method: str) -> list[tuple[Reached, Grid]]:
        """The best at each floor, and the grid that each stands on."""
        scale, own = Scale.of(self.rows), [row for row in self.rows if row.source == method]
        found: dict[str, Reached] = {}
        for floor in FLOORS:
            for value in (scale.kept, scale.combined):
                if row := best(own, scale, floor, value):
                    found[row.key] = row
        return [
            (row, grid)
            for row in found.values()
            for grid in GRIDS[method]
            if all(
                row.settings.get(name) == value or name in grid.choices
                for name, value in grid.fixed.items()
            )
        ]

    def _score(self, source: str, settings: Settings, recipe: Recipe) -> Iterator[Reached]:
        row = Reached(source, dict(settings))
        if row.key in self._found:
            return
        if self._until is not None and time.process_time() > self._until:
            return
        row = replace(row, **Reached.values_of(self.truth.values(recipe) or {}))
        self._found[row.key] = row
        self.rows.append(row)
        yield row
