"""A slider: how much each objective matters to whoever uses it -> the confirmed recipe that is best for it.

    slider = Slider.load("front/slider.yaml")
    stop = slider.choose({"chat_en": 3, "plain_sea": 1})     # any weights that are not all zero
    stop.recipe                                              # front/candidate-00017.yaml
    stop.values["plain_sea"]                                 # 0.795 [0.717, 0.868], on the report items

A preference is a point of the simplex over the objectives that count. Its recipe is the member of the
confirmed front with the largest weighted sum of gains over the base in yardsticks, by the *select* items
that confirmed the front. The values that a member shows are of the *report* items, which no choice has
seen, and the intervals are those of the final table: so what a slider promises is not flattered by
having been chosen. The file also holds the answers for a grid of preferences, for whoever reads it
without evomerge.

Paper: Jang et al., "Personalized Soups", https://arxiv.org/abs/2310.11564 (preferences as weights of a
    soup, chosen when it is used).
Deviations: a preference chooses among recipes that were scored, it does not interpolate their weights:
    what lies between two members was measured by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.errors import InputError, did_you_mean
from evomerge.evolution.history import Phase
from evomerge.inference.intervals import Interval
from evomerge.judging.table import Table, interval_from
from evomerge.judging.volume import relative
from evomerge.record.record import Record
from evomerge.suite.objectives import BASE, counting, weightless

FILE = "slider.yaml"
VERSION = 1
_MOST = 66  # preferences of the grid
_STEPS = (
    10,
    8,
    6,
    5,
    4,
    3,
    2,
    1,
)  # parts that the range of a weight is cut into; the finest that fits
_HEAD = """\
# Which recipe of the confirmed front is best for whom. `positions` maps a grid of preferences (weights of the
# objectives that sum to 1) to recipes, files beside this one. `gains` of a recipe say by how much it beats the
# base on the select items, in units of `yardsticks`: the largest weighted sum is chosen. `values` are those of
# the report items, which no choice has seen, with 95% intervals.
"""


@dataclass(frozen=True)
class Stop:
    """A member of the confirmed front.

    Attributes:
        recipe: its file.
        digest: of the recipe.
        on_front: how likely nobody dominates it.
        gains: over the base in yardsticks, on the select items, ``[objectives]``.
        values: on the report items.
    """

    recipe: Path
    digest: str
    on_front: float
    gains: tuple[float, ...]
    values: Mapping[str, Interval]

    @property
    def plain(self) -> dict[str, Any]:
        return {
            "digest": self.digest,
            "on_front": round(self.on_front, 4),
            "gains": [round(gain, 6) for gain in self.gains],
            "values": {name: each.plain for name, each in self.values.items()},
        }


@dataclass(frozen=True)
class Slider:
    """The stops of a slider over ``objectives``; ``yardsticks`` is what a gain of 1 is worth in each."""

    objectives: tuple[str, ...]
    yardsticks: Mapping[str, float]
    stops: tuple[Stop, ...]

    def choose(self, weights: Mapping[str, float]) -> Stop:
        """The stop that is best for a preference; of equals the first.

        Args:
            weights: objective -> how much it matters; one that is left out matters nothing.

        Raises:
            InputError: an objective is unknown, or the weights are no preference.
        """
        for name in weights:
            if name not in self.objectives:
                raise InputError(
                    f"{name!r} is no objective of this slider{did_you_mean(name, self.objectives)}; known here: "
                    f"{', '.join(self.objectives)}"
                )
        asked = [float(weights.get(name, 0.0)) for name in self.objectives]
        if not all(0 <= w < math.inf for w in asked) or not any(asked):
            raise InputError(
                "weights: expected numbers of 0 or more that are not all 0, found "
                + ", ".join(f"{name} {weight}" for name, weight in weights.items())
            )
        return max(
            self.stops, key=lambda stop: sum(w * g for w, g in zip(asked, stop.gains, strict=True))
        )

    def to_yaml(self) -> str:
        """The file: stops, and the answers for a grid of preferences."""
        positions = []
        for weights in grid(len(self.objectives)):
            asked = dict(zip(self.objectives, weights, strict=True))
            positions.append({"weights": asked, "recipe": self.choose(asked).recipe.name})
        content = {
            "slider": VERSION,
            "objectives": list(self.objectives),
            "yardsticks": dict(self.yardsticks),
            "recipes": {stop.recipe.name: stop.plain for stop in self.stops},
            "positions": positions,
        }
        return _HEAD + config.dump(content)

    @classmethod
    def load(cls, path: str | Path) -> Slider:
        """The slider at ``path``; its recipes are looked for beside it.

        Raises:
            InputError: it is absent, or no slider.
        """
        plain, folder = config.read(path).plain, Path(path).parent
        try:
            if plain["slider"] != VERSION:
                raise ValueError(f"a slider of version {plain['slider']!r:.60}; expected {VERSION}")
            found = cls(
                tuple(map(str, plain["objectives"])),
                {str(name): float(gain) for name, gain in plain["yardsticks"].items()},
                tuple(
                    Stop(
                        folder / _file_name(name),
                        str(stop["digest"]),
                        float(stop["on_front"]),
                        tuple(map(float, stop["gains"])),
                        {str(n): interval_from(each) for n, each in stop["values"].items()},
                    )
                    for name, stop in plain["recipes"].items()
                ),
            )
            if not found.stops or any(len(s.gains) != len(found.objectives) for s in found.stops):
                raise ValueError("expected recipes with a gain for each objective")
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: is no slider as `evomerge export RUN --pareto DIR` writes it: "
                f"{type(error).__name__}: {error}"
            ) from None
        return found


def slider_of(record: Record, members: Sequence[int], files: Mapping[int, str]) -> Slider | None:
    """The slider over confirmed ``members``; None before they are on the report.

    Args:
        record: of the run.
        members: of the front.
        files: candidate -> the name of its recipe's file.
    """
    table: Table | None = record.table
    if table is None:
        return None
    history = record.history
    objectives = counting(weightless(record.objectives, history.idle))
    elites = {elite.candidate: elite for elite in history.elites(Phase.SELECT)}  # the newest counts
    rows = {row.candidate: row for row in table.rows}
    stops = [
        Stop(
            Path(files[member]),
            history.candidates[member].recipe.portable().digest,
            rows[member].front or 0.0,
            relative(
                objectives,
                elites[member].values,
                history.references(elites[member].batch)[BASE],
                history.gains,
            ),
            rows[member].objectives,
        )
        for member in members
        if member in rows and rows[member].objectives  # it may have failed on the report
    ]
    if not stops:
        return None
    names = tuple(objective.name for objective in objectives)
    return Slider(names, {name: history.gains[name] for name in names}, tuple(stops))


def grid(objectives: int) -> Iterator[tuple[float, ...]]:
    """Preferences: all weights in equal steps that sum to 1, at most ``_MOST`` of them."""
    steps = next((s for s in _STEPS if math.comb(s + objectives - 1, objectives - 1) <= _MOST), 1)
    yield from (tuple(n / steps for n in parts) for parts in _parts(steps, objectives))


def _parts(total: int, count: int) -> Iterator[tuple[int, ...]]:
    """``count`` whole numbers that sum to ``total``, in all ways, the first as large as can be first."""
    if count == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *rest) for rest in _parts(total - first, count - 1))


def _file_name(name: object) -> str:
    """A file beside the slider, nowhere else."""
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{name!r:.60} is no file beside it")
    return name
