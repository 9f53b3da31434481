"""Slopes by row weights are the derivatives that finite differences find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evomerge.checkpoint import ModelRef
from evomerge.engines import EngineOptions, Request
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.lines import Lines
from evomerge.merging import Materializer, Merge, open_parents
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.rows import BY, COLUMNS, ROWS, RowWeights, count_of
from evomerge.scorers.lessons import Choice, Lesson
from evomerge.slopes import losses
from evomerge.slopes.coefficients import Slope, row_slope, slope
from evomerge.testing.models import tiny_family

SOURCES = ("chat", "sea")
LESSONS: list[Lesson] = [
    Choice(tuple(Request(tuple(range(5, 30)), (n, n + 1)) for n in (40, 50, 60)), frozenset({1})),
    Choice(tuple(Request((7, 8, 9), (n,)) for n in (40, 50)), frozenset({0})),
]


class Subject:
    """A merge with row weights in an engine."""

    def __init__(self, folder: Mapping[str, Path], own: Group, by: str = ROWS) -> None:
        models = {name: ModelRef(str(folder[name])) for name in SOURCES}
        recipe = Recipe(ModelRef(str(folder["base"])), models, Body((own,)), dtype="float32")
        parents = open_parents(recipe)
        self.materializer = Materializer(parents)
        options = EngineOptions(batch_tokens=64)
        self.engine = HuggingFaceEngine.open(
            self.materializer.outline(None), parents.donor, options
        )
        draws = np.random.default_rng(0)
        self.rows = RowWeights.of(
            {
                name: {
                    m: draws.uniform(0.5, 1.5, count_of(shape, by)).astype(np.float32)
                    for m in SOURCES
                }
                for name, shape in self.materializer.outline(None).shapes.items()
            },
            by,
        )
        self.recipe = recipe

    def merge(self, rows: RowWeights) -> Merge:
        recipe = replace(self.recipe, body=replace(self.recipe.body, rows=rows))
        merge = Merge(self.materializer, recipe)
        self.engine.load(merge)
        return merge

    def slope(self, rows: RowWeights) -> Slope:
        return row_slope(self.engine, self.merge(rows), LESSONS, losses.make("lead"))


WEIGHTS = {"weight": {"chat": 0.7, "sea": 1.2}}
GROUPS = {
    "task arithmetic": group("task_arithmetic", SOURCES, {**WEIGHTS, "lambda": 0.8}),
    "linear": group("linear", SOURCES, {"weight": 0.5, "normalize": False}),
    "lines": group("task_arithmetic", SOURCES, WEIGHTS, lines=Lines(0.5, 0.25)),
}


@pytest.mark.parametrize(
    ("kind", "architecture", "by"),
    [
        ("task arithmetic", "Llama", ROWS),
        ("linear", "Qwen2", ROWS),
        ("lines", "Llama", ROWS),
        ("task arithmetic", "Qwen2", COLUMNS),
        ("linear", "Llama", COLUMNS),
    ],
)
def test_they_are_what_differences_find(
    tmp_path: Path, kind: str, architecture: str, by: str
) -> None:
    subject = Subject(tiny_family(tmp_path, architecture=architecture), GROUPS[kind], by)
    rows = subject.rows
    found = subject.slope(rows).rows
    assert found is not None and len(found) == rows.size
    directions = {
        "all of them": np.random.default_rng(1).normal(size=rows.size),
        "those that matter most": np.where(
            np.abs(found) >= np.sort(np.abs(found))[-10], np.sign(found), 0.0
        ),
    }
    for direction in directions.values():
        step = 2e-3
        high, low = (
            subject.slope(rows.moved(rows.flat + sign * direction)).merit for sign in (step, -step)
        )
        assert abs(found @ direction) > 1e-4
        assert found @ direction == pytest.approx((high - low) / (2 * step), rel=0.05, abs=2e-3)


@pytest.mark.parametrize("by", BY)
def test_they_share_out_the_slope_by_a_weight(family: dict[str, Path], by: str) -> None:
    """sum of factor x dL/d(factor) = weight x dL/d(weight), in each tensor, for each source."""
    subject = Subject(family, GROUPS["task arithmetic"], by)
    merge = subject.merge(subject.rows)
    loss = losses.make("lead")
    coarse = slope(subject.engine, merge, LESSONS, loss).tensors
    fine = row_slope(subject.engine, merge, LESSONS, loss, checkpoint=True).rows
    assert fine is not None
    at = 0
    for (tensor, model, length), factors in zip(
        subject.rows.spans(), _vectors(subject.rows), strict=True
    ):
        ours = float(factors @ fine[at : at + length])
        theirs = WEIGHTS["weight"][model] * coarse[tensor]["weight"][model]
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5), (tensor, model)
        at += length


def _vectors(rows: RowWeights) -> list[np.ndarray]:
    return [vector for by_model in rows.vectors.values() for vector in by_model.values()]
