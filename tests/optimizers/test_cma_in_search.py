"""CMA-ES inside a real search: it meets its own points again after a recipe rounded them."""

from __future__ import annotations

import math
import warnings

import pytest

from evomerge.checkpoint import ModelRef
from evomerge.evolution.core import Plan, Search
from evomerge.evolution.history import Evaluation, History, Phase
from evomerge.optimizers import Problem, make
from evomerge.recipe import Body, Recipe
from evomerge.space import SearchSpace, SpaceSpec
from evomerge.suite.objectives import Objective, combine, yardsticks

WANTED = (Objective("score", "score", "value"),)


def search(start: tuple[str, ...]) -> Search:
    models = {"chat": ModelRef("chat"), "sea": ModelRef("sea")}
    template = Recipe(ModelRef("base"), models, Body(()), "float32")
    space = SearchSpace(SpaceSpec(("task_arithmetic",), blocks=2, start=start), template, 4)
    return Search(
        space,
        make("cma", Problem(space.dims, ("score",)), seed=0, population=8),
        Plan(evaluations=160, population=8),
        History(
            lambda values, references, gains: combine(WANTED, "mean", values, references, gains),
            lambda references: yardsticks(WANTED, references),
        ),
        objectives=WANTED,
    )


def loss(recipe: Recipe) -> float:
    """Distance of all weights from 0.3 (on two groups) and 1.9."""
    wanted = {"chat": 0.3, "sea": 1.9}
    return sum(
        (weight - wanted[model]) ** 2
        for group in recipe.groups
        if group.method == "task_arithmetic"
        for model, weight in group.values["weight"].items()  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("start", [("uniform",), ("task_arithmetic",)])
def test_it_recognises_its_own_points_and_converges(start: tuple[str, ...]) -> None:
    found = search(start)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while (batch := found.propose()) is not None and batch.phase != Phase.SELECT:
            found.history.open(batch)
            for candidate in batch.candidates:
                known = candidate.recipe.groups[0].method == "task_arithmetic"
                value = -loss(candidate.recipe) if known else -10.0
                found.history.observe(Evaluation(batch.number, candidate.id, {"score": value}))
    (recommended,) = found.optimizer.recommend(1)
    assert math.sqrt(loss(found.space.decode(recommended))) < 0.4
