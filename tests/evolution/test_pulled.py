"""Along the line to a floor's model: recipes with row weights move as those without do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evomerge.checkpoint import ModelRef
from evomerge.evolution.pulled import PARTS, pulled_rows, ways
from evomerge.merging import Materializer, open_parents
from evomerge.merging.blueprint import Blueprint
from evomerge.recipe import Body, Recipe, group
from evomerge.rows import BY, ROWS, RowWeights, count_of

SOURCES = ("chat", "sea")


def refined(folder: Mapping[str, Path], by: str, weight: Mapping[str, float]) -> Recipe:
    models = {name: ModelRef(str(folder[name])) for name in SOURCES}
    own = group("task_arithmetic", SOURCES, {"weight": dict(weight)})
    recipe = Recipe(ModelRef(str(folder["base"])), models, Body((own,)), dtype="float32")
    shapes = Materializer(open_parents(recipe)).outline(None).shapes
    draws = np.random.default_rng(0)
    vectors = {
        name: {m: draws.uniform(0, 2, count_of(shape, by)).astype(np.float32) for m in SOURCES}
        for name, shape in shapes.items()
    }
    return replace(recipe, body=replace(recipe.body, rows=RowWeights.of(vectors, by)))


def merged(recipe: Recipe) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    Materializer(open_parents(recipe)).each(
        recipe, lambda name, tensor: found.__setitem__(name, tensor.clone())
    )
    return found


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("part", [-0.04, 0.12, 1.0])
def test_every_weight_goes_that_part_of_the_way(
    family: dict[str, Path], by: str, part: float
) -> None:
    recipe = refined(family, by, {"chat": -0.0204, "sea": 0.61})
    parents, before = open_parents(recipe), merged(recipe)
    after = pulled_rows(recipe, Blueprint.of(parents).places, "chat", part)
    assert after.body.rows is not None and after.body.rows.by == by
    for name, found in merged(after).items():
        chat = parents.tensor("chat", name).float()
        torch.testing.assert_close(
            found, before[name] + part * (chat - before[name]), rtol=1e-4, atol=1e-5
        )


def test_a_weight_of_nothing_moves_itself(family: dict[str, Path]) -> None:
    recipe = refined(family, ROWS, {"chat": 0.0, "sea": 0.5})
    rows = recipe.body.rows
    assert rows is not None
    vectors = {name: {"sea": each["sea"]} for name, each in rows.vectors.items()}
    recipe = replace(recipe, body=replace(recipe.body, rows=RowWeights.of(vectors)))
    parents, before = open_parents(recipe), merged(recipe)
    after = pulled_rows(recipe, Blueprint.of(parents).places, "chat", 0.25)
    assert after.groups[0].values["weight"] == {"chat": 0.25, "sea": 0.5}
    for name, found in merged(after).items():
        chat = parents.tensor("chat", name).float()
        torch.testing.assert_close(
            found, before[name] + 0.25 * (chat - before[name]), rtol=1e-4, atol=1e-5
        )


def test_without_row_weights_nothing_moves(family: dict[str, Path]) -> None:
    recipe = refined(family, ROWS, {"chat": 0.8, "sea": 0.5})
    plain = replace(recipe, body=replace(recipe.body, rows=None))
    assert pulled_rows(plain, {}, "chat", 0.5) == plain


def test_ways_are_said_in_words() -> None:
    found = list(ways(["chat"]))
    assert [part for _, part, _ in found] == list(PARTS)
    assert found[0][2] == "4% farther from chat"
    assert found[-1][2] == "12% nearer to chat"
