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
from evomerge.paths import Hop
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.registry import LOSSES
from evomerge.scorers.lessons import Choice, Lesson, Text, Written
from evomerge.slopes import losses
from evomerge.slopes.backward import batches, descend, hear
from evomerge.slopes.coefficients import Slope, slope
from evomerge.slopes.losses import Loss, kl
from evomerge.slopes.losses.entropy import Entropy
from evomerge.slopes.losses.kl import KL
from evomerge.slopes.losses.lead import Lead
from evomerge.suite.slopes import TAU
from evomerge.testing.models import tiny_family
from evomerge.testing.zoo import tiny_members

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
        self.engine = HuggingFaceEngine.open(
            self.materializer.outline(None), parents.donor, options
        )

    def slope(
        self, lessons: Sequence[Lesson], loss: str = "lead", *, checkpoint: bool = False
    ) -> Slope:
        made, merge = self.loss(loss, lessons), Merge(self.materializer, self.recipe)
        self.engine.load(merge)
        return slope(self.engine, merge, lessons, made, checkpoint=checkpoint)

    def merit(self, lessons: Sequence[Lesson], groups: Sequence[Group], loss: str) -> float:
        """Of the same recipe with other groups."""
        made, body = self.loss(loss, lessons), replace(self.recipe.body, groups=tuple(groups))
        recipe = replace(self.recipe, body=body)
        self.engine.load(Merge(self.materializer, recipe))
        return descend(self.engine, lessons, made, lambda name, gradient: None)

    def loss(self, name: str, lessons: Sequence[Lesson]) -> Loss:
        """One that follows a model has heard the first source."""
        made = losses.make(name)
        if made.FOLLOWS:
            teacher = replace(self.recipe, body=Body((group("passthrough", SOURCES[:1]),)))
            self.engine.load(Merge(self.materializer, teacher))
            hear(self.engine, lessons, made)
        return made


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


def check(
    subject: Subject, lessons: Sequence[Lesson], loss: str = "lead", step: float = 2e-3
) -> None:
    """The slope along a random direction is the difference of two merits along it."""
    draws = np.random.default_rng(0)
    recipe, blueprint = subject.recipe, subject.materializer.outline(None)
    found = subject.slope(lessons, loss)
    directions = [direction_of(each, draws) for each in recipe.groups]
    ends = []
    for sign in (step, -step):
        groups = [moved(g, by, sign) for g, by in zip(recipe.groups, directions, strict=True)]
        ends.append(subject.merit(lessons, groups, loss))
    expected = (ends[0] - ends[1]) / (2 * step)
    product = 0.0
    for tensor, by_parameter in found.tensors.items():
        if (own := recipe.group_of(blueprint.places[tensor])) is None or not by_parameter:
            continue
        at = recipe.groups.index(own)
        for name, by_model in by_parameter.items():
            by = directions[at].get(name, {})  # nothing moves along a line
            product += sum(v * by.get(model, 0.0) for model, v in by_model.items())
    assert abs(product) > 1e-4
    assert product == pytest.approx(expected, rel=0.05, abs=2e-3)


@pytest.mark.parametrize("kind", LESSONS)
@pytest.mark.parametrize(
    "method",
    [n for n in methods.names() if methods.get(n).smooth and not methods.get(n).of_adapters],
)
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


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        (
            "camembert",
            "CamembertForCausalLM",
        ),  # whose head is the embedding, and not the other way round
        ("gpt_oss", "GptOssForCausalLM"),
        ("mixtral", "MixtralForCausalLM"),  # whose experts are packed in memory
        ("qwen3_5_text", "Qwen3_5ForCausalLM"),
    ],
)
def test_of_models_that_are_held_otherwise_than_stored(
    tmp_path: Path, model_type: str, architecture: str
) -> None:
    folder = tiny_members(tmp_path, model_type, architecture, ("base", *SOURCES))
    named = group("task_arithmetic", SOURCES, roles=["router"])
    subject = Subject(recipe_of(folder, [named, group("task_arithmetic", SOURCES)]))
    check(subject, LESSONS["choices"], step=5e-4)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_along_a_path(tiny: Callable[..., Subject], checkpoint: bool) -> None:
    """A block that stands twice is changed in both places; a single model's not at all."""
    subject = tiny(
        group("task_arithmetic", SOURCES, layers=(0, 1)), group("task_arithmetic", SOURCES)
    )
    last = subject.materializer.outline(None).layers - 1
    path = (Hop(0), Hop(1), Hop(1), Hop(0, "sea"), Hop(1, None, 0.8), Hop(last))
    whole = subject.recipe
    subject.recipe = replace(whole, body=replace(whole.body, path=path))
    check(subject, LESSONS["choices"])
    found = subject.slope(LESSONS["choices"], checkpoint=checkpoint)
    assert set(found.tensors) <= set(subject.materializer.outline(None).names)
    subject.recipe = whole


def test_a_line_over_depth_scales_them(tiny: Callable[..., Subject]) -> None:
    plain = group("task_arithmetic", SOURCES)
    lined = replace(plain, lines=Lines(0.5, 0.25))
    subject = tiny(lined)
    found = subject.slope(LESSONS["choices"])
    step, ends = 1e-3, []
    for alpha in (0.5 + step, 0.5 - step):
        moved = [replace(plain, lines=Lines(alpha, 0.25))]
        ends.append(subject.merit(LESSONS["choices"], moved, "lead"))
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

    descend(subject.engine, LESSONS["choices"], Lead(), take)
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
        merits.append(1 / (1 + np.exp(-(right - wrong) / TAU)))
    assert found.merit == pytest.approx(float(np.mean(merits)), rel=1e-4)


@pytest.mark.parametrize("kind", LESSONS)
@pytest.mark.parametrize("loss", [name for name in LOSSES.names() if name != "lead"])
def test_slopes_of_other_losses(tiny: Callable[..., Subject], kind: str, loss: str) -> None:
    other = group("task_arithmetic", SOURCES, {"lambda": 0.7})
    check(
        tiny(group("task_arithmetic", SOURCES, roles=["attn", "down"]), other), LESSONS[kind], loss
    )


@pytest.mark.parametrize("kind", LESSONS)
def test_nothing_follows_a_model_like_itself(tiny: Callable[..., Subject], kind: str) -> None:
    """KL is 0 where the merge is the model that it follows, and more elsewhere."""
    same, other = tiny(group("linear", SOURCES, {"weight": {"chat": 1.0, "sea": 0.0}})), 0.0
    best = subject_merit(same, kind)
    for weight in (0.9, 0.5):
        merge = tiny(group("linear", SOURCES, {"weight": {"chat": weight, "sea": 1 - weight}}))
        other, before = subject_merit(merge, kind), other or best
        assert other < before - 1e-6
    assert best == pytest.approx(0.0 if kind == "text" else 1.0, abs=1e-4)


def subject_merit(subject: Subject, kind: str) -> float:
    return subject.slope(LESSONS[kind], "kl").merit


def test_kl_of_the_likeliest_tokens_is_little_less() -> None:
    draws = torch.randn(2, 6, 4000, generator=torch.Generator().manual_seed(0)) * 3
    request = Request((1,), (2,) * 6)
    found = []
    for size in (4000, 100, 2):
        loss = KL()
        kl.KEPT, kept = size, kl.KEPT
        try:
            loss.hear(Written(request), [draws[0]])
            found.append(-float(loss.merit(Written(request), [draws[1]]).log()) * loss.tau)
        finally:
            kl.KEPT = kept
    p, q = draws.log_softmax(-1)
    whole = float((p.exp() * (p - q)).sum(-1).mean())
    assert found[0] == pytest.approx(whole, rel=1e-4)
    assert found[0] > found[1] > 0.8 * found[0] > found[2] > 0


def test_the_surest_answer_need_not_be_right() -> None:
    """Entropy looks at no right answer, and is at its best where one choice has all."""
    lesson = Choice((Request((1,), (2,)), Request((1,), (3,))), frozenset({0}))
    swapped = replace(lesson, right=frozenset({1}))
    merits = {}
    for lead in (0.0, 3.0, 50.0):
        logits = [torch.tensor([[0.0, 0, lead, 0]]), torch.tensor([[0.0, 0, lead, 0]])]
        merits[lead] = float(Entropy().merit(lesson, logits))
        assert merits[lead] == float(Entropy().merit(swapped, logits))
    assert merits[0.0] == pytest.approx(0.0, abs=1e-6) and merits[50.0] == pytest.approx(1.0)
    assert merits[0.0] < merits[3.0] < merits[50.0]


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
def test_checkpointed_slopes_are_the_same_and_keep_less(tmp_path: Path, architecture: str) -> None:
    folder = tiny_family(tmp_path, architecture=architecture, num_hidden_layers=6)
    subject = Subject(recipe_of(folder, [group("task_arithmetic", SOURCES)]))
    saved = {}
    slopes = {}
    for checkpoint in (False, True):
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        before = [dict(vars(module)) for module in subject.engine.module().modules()]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            slopes[checkpoint] = subject.slope(LESSONS["choices"], checkpoint=checkpoint)
        saved[checkpoint] = count
        after = [dict(vars(module)) for module in subject.engine.module().modules()]
        assert [set(each) for each in before] == [set(each) for each in after]
        assert not any(module.training for module in subject.engine.module().modules())
    assert slopes[True].merit == pytest.approx(slopes[False].merit, abs=1e-6)
    for name, by in slopes[False].tensors.items():
        for model, value in by["weight"].items():
            assert slopes[True].tensors[name]["weight"][model] == pytest.approx(value, abs=1e-5)
    assert saved[True] < saved[False] / 2


def test_hopeless_and_safe_items_have_no_slope() -> None:
    request = Request((1,), (2,))
    for lead in (-60.0, 60.0):
        logits = torch.zeros(1, 5, requires_grad=True)
        shifted = logits + torch.tensor([0, 0, lead, 0, 0])
        Lead().merit(Written(request), [shifted]).backward()
        assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-9
