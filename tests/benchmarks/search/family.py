"""Real models as a ground for controls (tier T2): recipes are merged, items asked of a resident worker.

Items are those of the whole suite; a control draws its own from them. Forms:

* ``groups``: the job's own space;
* ``layers``: a weight of task arithmetic per layer and model, up to 2, and one for the rest;
* ``knots``: one gene per layer for attention, one for MLP, one for the rest: a share of the second parent, the first has
  what is left (linear where Mergenetic is spherical);
* ``mixed``: the methods and densities of ``search_spaces/multilingual-instruct.yaml``;
* ``known``: the known recipes of the job and its parents, by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evomerge import config
from evomerge.params import Dim, Genome
from evomerge.recipe import Recipe
from evomerge.run.preflight import Run
from evomerge.space import SearchSpace, parse_space
from evomerge.suite.objectives import counting
from evomerge.suite.scorer import Items, column
from evomerge.worker import Job, Setup, Worker
from tests.benchmarks.search.ground import Array, Ground, Numbers, Point
from tests.benchmarks.search.truth import Truth

ROOT = Path(__file__).parents[3]
LARGEST = 2.0


class Family(Ground):
    """The models and the suite of a ``job``.

    Args:
        job: its objectives that count are the tasks; each has a scorer of its own.
        seed: of the draws of items.
        truth: over the same models.
        worker: resident; default: a new one.
    """

    largest = LARGEST

    def __init__(self, job: Run, seed: int, truth: Truth, worker: Worker | None = None) -> None:
        self.job, self.seed, self._truth = job, seed, truth
        self._objectives = counting(job.suite.objectives)
        self.names = tuple(objective.name for objective in self._objectives)
        self._ids = [
            (task, objective.scorer, item.id)
            for task, objective in enumerate(self._objectives)
            for item in job.suite.scorers[objective.scorer].items()
        ]
        self.tasks = np.array([task for task, _, _ in self._ids])
        self.worker = worker or Worker(Setup.from_plain(job.worker("cpu").argument))

    @property
    def forms(self) -> tuple[str, ...]:
        return ("groups", "layers", "knots", "mixed", "known")

    @cached_property
    def _spaces(self) -> dict[str, SearchSpace]:
        layers, start = self.job.space.layers, ["parents", "uniform"]
        arithmetic: dict[str, Any] = {"methods": ["task_arithmetic"], "start": start}
        weight = {"parameters": {"weight": {"range": [0, LARGEST]}}}
        return {
            "groups": self.job.space,
            "layers": self._space({**arithmetic, **weight, "groups": {"layers": layers}}),
            "knots": self._space(
                {**arithmetic, **weight, "groups": {"layers": layers, "roles": ["attn", "mlp"]}}
            ),
            "mixed": self._space(
                config.read(ROOT / "search_spaces" / "multilingual-instruct.yaml").plain
            ),
        }

    def _space(self, plain: Mapping[str, Any]) -> SearchSpace:
        problems = config.Problems()
        node = config.from_plain(dict(plain), str(self.job.spec.folder / "space"))
        spec = parse_space(node, tuple(self.job.spec.sources), problems)
        problems.check()
        assert spec is not None
        return SearchSpace(spec, self.job.template, self.job.space.layers)

    def dims(self, form: str) -> tuple[Dim, ...]:
        dims = self._spaces[form].dims
        return dims[: len(dims) // 2] if form == "knots" else dims

    def starts(self, form: str) -> Mapping[str, Genome]:
        if form == "knots":
            return {"uniform": (0.5,) * len(self.dims(form))}
        if form == "layers":
            share = 1 / len(self.job.spec.sources) / LARGEST
            return {"uniform": (share,) * len(self.dims(form))}
        space = self._spaces[form]
        known = {**space.references(), **space.starts()}
        found = {label: space.encode(recipe) for label, recipe in known.items()}
        return {label: genome for label, genome in found.items() if genome is not None}

    @cached_property
    def _known(self) -> dict[str, Recipe]:
        return {**self.job.space.references(), **self.job.space.starts()}

    def known(self) -> Mapping[str, Point]:
        return {label: Point("known", (number,)) for number, label in enumerate(self._known)}

    def recipe(self, point: Point) -> Recipe:
        """The recipe of a point."""
        if point.form == "known":
            return [*self._known.values()][int(point.genome[0])]
        genome = point.genome
        if point.form == "knots":
            assert len(self.job.spec.sources) == 2
            genome = tuple(
                weight / LARGEST for share in point.genome for weight in (1 - share, share)
            )
        return self._spaces[point.form].decode(tuple(min(max(g, 0.0), 1.0) for g in genome))

    def items(self, numbers: Numbers) -> Items:
        """Scorer -> ids."""
        found: Items = {}
        for number in numbers:
            _, scorer, id = self._ids[number]
            found.setdefault(scorer, []).append(id)
        return found

    def answers(self, point: Point, items: Numbers) -> Array | None:
        asked = self.items(items)
        outcome = self.worker(Job("control", self.recipe(point).portable().plain, asked))
        if outcome.results is None:
            return None
        answered = {
            (task, id): value
            for task, objective in enumerate(self._objectives)
            if objective.scorer in asked
            for id, value in zip(
                asked[objective.scorer],
                column(outcome.results[objective.scorer], objective.metric),
                strict=True,
            )
        }
        signs = [objective.sign for objective in self._objectives]
        found = [(task, answered[task, id]) for task, _, id in (self._ids[n] for n in items)]
        return np.array([signs[task] * float(value or 0.0) for task, value in found])

    def slope(self, point: Point, items: Numbers) -> Array:
        raise NotImplementedError("searches of this tier are runs of evomerge: they take slopes")

    def true(self, point: Point) -> Array | None:
        values = self._truth.values(self.recipe(point))
        if values is None:
            return None
        return np.array([o.sign * values[o.name] for o in self._objectives])
