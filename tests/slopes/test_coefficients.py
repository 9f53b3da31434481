"""Slopes are the derivatives that finite differences find, for every kind of lesson, method and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge import methods
from evomerge.checkpoint import ModelRef
from evomerge.engines import EngineOptions, Request
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.lines import Lines
from evomerge.merging import Materializer, Merge, open_parents
from evomerge.params import ALL
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.scorers.lessons import Choice, Lesson, Text, Written
from evomerge.slopes.backward import batches, descend
from evomerge.slopes.coefficients import Slope, slope
from evomerge.slopes.merits import TAU, merit
from evomerge.testing.models import tiny_family

SOURCES = ("chat", "sea")
LESSONS: dict[str, list[Lesson]] = {
    "choices": [
        Choice(
            tuple(Request(tuple(range(5, 30)), (n, n + 1)) for n in (40, 50, 60)), frozenset({1})
        ),
        Choice(tuple(Request((7, 8, 9), (n,)) for n in (40, 50)), frozenset({0})),
    ],
    "written": [
        Written(Request(tuple(range(5, 30)), (40, 41, 42, 1)), frozenset({1, 43})),
        Written(Request((7, 8), (44, 45))),
    ],
    "text": [Text((Request((3,), tuple(range(20, 60))), Request((59,), (61, 62))), 42)],
}


def recipe_of(folder: Mapping[str, Path], groups: Sequence[Group]) -> Recipe:
    models = {name: ModelRef(str(folder[name])) for name in SOURCES}
    return Recipe(ModelRef(str(folder["base"])), models, Body(tuple(groups)), dtype="float32")


@pytest.fixture(scope="module")
def tiny(family: dict[str, Path]) -> Callable[..., Subject]:
    """The tiny family in an engine, with groups of one's own."""
    subject = Subject(recipe_of(family, [group("task_arithmetic", SOURCES)]))

    def with_groups(*groups: Group) -> Subject:
        found = groups or (group("task_arithmetic", SOURCES),)
        subject.recipe = replace(subject.recipe, body=Body(found))
        return subject

    return with_groups


class Subject:
    """A recipe in an engine, and its slope."""

    def __init__(self, recipe: Recipe) -> None:
        parents = open_parents(recipe)
        self.recipe = recipe
        self.materializer = Materializer(parents)
        options = EngineOptions(batch_tokens=64)
        self.engine = HuggingFaceEngine.open(self.materializer.blueprint, parents.donor, options)

    def slope(self, lessons: Sequence[Lesson]) -> Slope:
        merge = Merge(self.materializer, self.recipe)
        self.engine.load(merge)
        return slope(self.engine, merge, lessons)

    def merit(self, lessons: Sequence[Lesson], groups: Sequence[Group]) -> float:
        """Of the same recipe with other groups."""
        recipe = replace(self.recipe, body=Body(tuple(groups)))
        self.engine.load(Merge(self.materializer, recipe))
        return descend(self.engine, lessons, TAU, lambda name, gradient: None)


def moved(group: Group, by: Mapping[str, Any], step: float) -> Group:
    """A group whose values are moved along a direction."""
    values: dict[str, Any] = dict(group.values)
    for name, direction in by.items():
        value = values[name]
        values[name] = (
            {model: value[model] + step * direction[model] for model in value}
            if isinstance(value, dict)
            else value + step * direction[ALL]
        )
    return replace(group, values=values)


def direction_of(group: Group, draws: np.random.Generator) -> dict[str, dict[str, float]]:
    found = {}
    for name in methods.get(group.method).smooth:
        value = group.values[name]
        models = list(value) if isinstance(value, dict) else [ALL]
        found[name] = {model: float(draws.normal()) for model in models}
    return found


def check(subject: Subject, lessons: Sequence[Lesson], step: float = 2e-3) -> None:
    """The slope along a random direction is the difference of two merits along it."""
    draws = np.random.default_rng(0)
    recipe, blueprint = subject.recipe, subject.materializer.blueprint
    found = subject.slope(lessons)
    directions = [direction_of(each, draws) for each in recipe.groups]
    ends = []
    for sign in (step, -step):
        groups = [moved(g, by, sign) for g, by in zip(recipe.groups, directions, strict=True)]
        ends.append(subject.merit(lessons, groups))
    expected = (ends[0] - ends[1]) / (2 * step)
    product = 0.0
    for site in blueprint.sites:
        at = recipe.groups.index(recipe.group_of(site.place))  # type: ignore[arg-type]
        for name, by_model in found.tensors[site.name].items():
            by = directions[at].get(name, {})  # nothing moves along a line
            product += sum(v * by.get(model, 0.0) for model, v in by_model.items())
    assert abs(product) > 1e-4
    assert product == pytest.approx(expected, rel=0.05, abs=2e-3)


@pytest.mark.parametrize("kind", LESSONS)
@pytest.mark.parametrize("method", [n for n in methods.names() if methods.get(n).smooth])
def test_slopes_are_what_differences_find(
    tiny: Callable[..., Subject], kind: str, method: str
) -> None:
    models = SOURCES if methods.get(method).max_models != 1 else SOURCES[:1]
    values = {"density": 1.0} if "ties" in method else {}
    groups = [
        group(method, models, values, roles=["attn", "down"]),
        group(method, models, {**values, **({"lambda": 0.7} if "lambda" in names(method) else {})}),
    ]
    check(tiny(*groups), LESSONS[kind])


def names(method: str) -> set[str]:
    return {parameter.name for parameter in methods.get(method).parameters}


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3", "Gemma2"])
def test_of_any_model(tmp_path: Path, architecture: str) -> None:
    folder = tiny_family(tmp_path, architecture=architecture)
    check(Subject(recipe_of(folder, [group("task_arithmetic", SOURCES)])), LESSONS["choices"])


def test_a_line_over_depth_scales_them(tiny: Callable[..., Subject]) -> None:
    plain = group("task_arithmetic", SOURCES)
    lined = replace(plain, lines=Lines(0.5, 0.25))
    subject = tiny(lined)
    found = subject.slope(LESSONS["choices"])
    step, ends = 1e-3, []
    for alpha in (0.5 + step, 0.5 - step):
        ends.append(subject.merit(LESSONS["choices"], [replace(plain, lines=Lines(alpha, 0.25))]))
    whole = sum(by["lines"][ALL] for by in found.tensors.values())
    assert whole == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02)
    check(subject, LESSONS["choices"])


def test_memory_is_one_gradient(tiny: Callable[..., Subject]) -> None:
    subject = tiny()
    subject.slope(LESSONS["choices"])
    module, alive, seen = subject.engine.module(), [], []

    def take(name: str, gradient: torch.Tensor) -> None:
        alive.append(sum(p.grad is not None for p in module.parameters()))
        seen.append(name)

    descend(subject.engine, LESSONS["choices"], 2.0, take)
    assert max(alive) == 0, "a gradient was kept while the next one came"
    assert set(seen) == set(dict(module.named_parameters()))
    assert not any(p.requires_grad for p in module.parameters())
    scored = subject.engine.loglikelihood(LESSONS["choices"][0].requests)
    assert all(np.isfinite(each.nats) for each in scored)


@pytest.mark.parametrize("kind", LESSONS)
def test_batches_make_no_difference(tiny: Callable[..., Subject], kind: str) -> None:
    subject = tiny()
    lessons = LESSONS[kind] * 3
    assert len(list(batches(lessons, 64))) > 1
    many = subject.slope(lessons)
    limits = subject.engine._limits
    subject.engine._limits = replace(limits, tokens=10_000)
    assert len(list(batches(lessons, subject.engine.room))) == 1
    one = subject.slope(lessons)
    subject.engine._limits = limits
    assert many.merit == pytest.approx(one.merit, rel=1e-5)
    for name, by in many.tensors.items():
        for model, value in by["weight"].items():
            assert value == pytest.approx(one.tensors[name]["weight"][model], rel=1e-3, abs=1e-6)


def test_what_is_scored_is_what_is_taught(tiny: Callable[..., Subject]) -> None:
    """The merit of a choice is made of the log-likelihoods that the engine scores by."""
    subject = tiny()
    found = subject.slope(LESSONS["choices"])
    merits = []
    for lesson in LESSONS["choices"]:
        nats = [each.nats for each in subject.engine.loglikelihood(lesson.requests)]
        right = max(n for at, n in enumerate(nats) if at in lesson.right)  # type: ignore[union-attr]
        wrong = max(n for at, n in enumerate(nats) if at not in lesson.right)  # type: ignore[union-attr]
        merits.append(1 / (1 + np.exp(-(right - wrong) / 2)))
    assert found.merit == pytest.approx(float(np.mean(merits)), rel=1e-4)


def test_hopeless_and_safe_items_have_no_slope() -> None:
    request = Request((1,), (2,))
    for lead in (-60.0, 60.0):
        logits = torch.zeros(1, 5, requires_grad=True)
        shifted = logits + torch.tensor([0, 0, lead, 0, 0])
        merit(Written(request), [shifted]).backward()
        assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-9
