from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge import config, methods
from evomerge.calibration import Calibration
from evomerge.checkpoint import ModelRef
from evomerge.errors import ConfigError
from evomerge.lines import Lines, auto_alpha
from evomerge.params import Choice, Integer, Parameter
from evomerge.recipe import GROUP_ROLES, Body, Group, Recipe, group, uncovered
from evomerge.skeleton import usual
from evomerge.tensors import OTHER, Place, dense

SOURCES = ("chat", "sea", "math")
LAYERS = 6
PLACES = usual(LAYERS, "Qwen2ForCausalLM").places
NAMES = tuple(PLACES)


def values(parameter: Parameter) -> st.SearchStrategy[Any]:
    domain = parameter.domain
    if isinstance(domain, Choice):
        return st.sampled_from(domain.options)
    if isinstance(domain, Integer):
        return st.integers(domain.low, domain.high)
    low, high = (max(domain.low - 1, domain.valid[0]), min(domain.high + 1, domain.valid[1]))
    return st.floats(low, high) | st.sampled_from([domain.low, domain.high])


@st.composite
def groups(draw: st.DrawFn) -> Group:
    name = draw(st.sampled_from(methods.names()))
    method = methods.get(name)
    count = draw(st.integers(method.min_models, method.max_models or len(SOURCES)))
    models = draw(st.permutations(SOURCES))[:count]
    given = {
        p.name: {m: draw(values(p)) for m in models} if p.per_model else draw(values(p))
        for p in method.parameters
        if draw(st.booleans())
    }
    layers = draw(st.none() | st.tuples(st.integers(0, 3), st.integers(3, 9)))
    roles = draw(st.none() | st.lists(st.sampled_from(GROUP_ROLES), min_size=1, unique=True))
    named = draw(st.none() | st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    line = draw(st.none() | lines)
    return group(name, models, given, layers=layers, roles=roles, lines=line, named=named)


numbers = st.floats(-2, 2)
lines = st.builds(Lines, numbers, numbers, st.sampled_from(["deep", "shallow"]))
folders = st.sampled_from(["models/a", "/data/b", "org/name@v1", "embedded:base", "no", "x+y", "1"])
recipes = st.builds(
    Recipe,
    base=folders.map(ModelRef),
    models=st.fixed_dictionaries({name: folders.map(ModelRef) for name in SOURCES}),
    body=st.builds(
        Body,
        groups=st.lists(groups(), min_size=1, max_size=4).map(tuple),
        data=st.sampled_from([None, 8]).map(lambda items: Calibration("t.jsonl", items, "0f" * 32)),
    ),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    seed=st.integers(0, 2**40),
    tokenizer=st.sampled_from(["base", *SOURCES]),
    provenance=st.sampled_from([{}, {"scores": {"th": 0.5}, "by": "no"}]),
)


@settings(max_examples=40, deadline=None)
@given(recipe=recipes)
def test_a_recipe_survives_yaml(recipe: Recipe) -> None:
    back = Recipe.parse(config.parse(recipe.to_yaml(), "recipe.yaml"))
    assert back == recipe
    assert (back.digest, back.provenance) == (recipe.digest, recipe.provenance)
    assert back.to_yaml() == recipe.to_yaml()
    again = Recipe.from_plain(recipe.plain)
    assert (again, again.digest) == (recipe, recipe.digest)


@settings(max_examples=20, deadline=None)
@given(recipe=recipes, other=recipes)
def test_the_digest_names_what_a_recipe_does(recipe: Recipe, other: Recipe) -> None:
    assert replace(recipe, provenance={"run": "x"}).digest == recipe.digest
    assert (recipe.digest == other.digest) == (recipe == other)
    assert replace(recipe, seed=recipe.seed + 1).digest != recipe.digest


def test_the_digest_does_not_change_over_time() -> None:
    models = {"chat": ModelRef("a"), "sea": ModelRef("b")}
    recipe = Recipe(ModelRef("base"), models, Body((group("linear", ("chat", "sea")),)), seed=1)
    assert recipe.digest == "a44f60a9dcf77cade11117bf847cc103abb1b7d055c5d14a54baeb1e024da1bd"


@settings(max_examples=40, deadline=None)
@given(recipe=recipes)
def test_the_first_group_that_matches_decides(recipe: Recipe) -> None:
    for name in NAMES:
        matching = [g for g in recipe.groups if matches(g, name)]
        assert recipe.group_of(PLACES[name]) is (matching[0] if matching else None)


def matches(group: Group, name: str) -> bool:
    """The rule as the documents word it: all that a group says of layers, roles and tensors is true."""
    place = PLACES[name]
    own = {place.role, *(["other"] if place.role in OTHER else [])}
    own |= {part for part in "qkvo" if f".self_attn.{part}_proj." in name}
    own |= {part for part in ("gate", "up", "down") if f".mlp.{part}_proj." in name}
    inside = group.layers is None or (
        place.layer is not None and group.layers[0] <= place.layer <= group.layers[1]
    )
    named = group.tensors is None or name in group.tensors
    return inside and named and (group.roles is None or not own.isdisjoint(group.roles))


def test_single_tensors_come_before_or_after_as_they_stand() -> None:
    name, bias = (f"model.layers.2.self_attn.q_proj.{kind}" for kind in ("weight", "bias"))
    one, role, rest = (
        group("linear", SOURCES, named=[name]),
        group("linear", SOURCES, roles=["q"]),
        group("linear", SOURCES),
    )
    assert Body((one, role, rest)).group_of(PLACES[name]) is one
    assert Body((one, role, rest)).group_of(PLACES[bias]) is role
    assert Body((role, one, rest)).group_of(PLACES[name]) is role
    assert Body((rest, one)).group_of(PLACES[name]) is rest
    beyond = replace(one, layers=(3, 9))  # what a group says holds at once
    assert Body((beyond, rest)).group_of(PLACES[name]) is rest
    assert [each.is_fine for each in (one, role, rest)] == [True, True, False]


def test_a_group_that_names_tensors_is_a_line() -> None:
    named = [group("task_arithmetic", SOURCES, {"weight": 0.1234}, named=[name]) for name in NAMES]
    models = {name: ModelRef(name) for name in SOURCES}
    recipe = Recipe(ModelRef("b"), models, Body((*named, group("linear", SOURCES))))
    lines = [line for line in recipe.to_yaml().splitlines() if line.startswith("  - ")]
    assert len(lines) == len(recipe.groups)
    assert lines[0] == (
        "  - {tensors: [model.embed_tokens.weight], method: task_arithmetic, weight: {chat: 0.1234, "
        "sea: 0.1234, math: 0.1234}, lambda: 1.0, normalize: false}"
    )
    assert lines[-1] == "  - method: linear"


def test_tensors_that_no_group_matches_are_listed() -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    models = {"chat": ModelRef("a")}
    linear = group("linear", ("chat",), layers=(0, 3))
    places = {name: PLACES[name] for name in names}
    assert uncovered(Recipe(None, models, Body((linear,))), places) == [names[0], names[2]]
    rest = group("linear", ("chat",))
    assert uncovered(Recipe(None, models, Body((linear, rest))), places) == []


def test_one_value_stands_for_all_models_and_whole_numbers_for_real_ones() -> None:
    head = "base: b\nmodels: {chat: a, sea: c}\n"
    texts = (
        "groups: [{method: ties, weight: 1, density: 0.5}]",
        "groups: [{method: ties, weight: {chat: 1, sea: 1.0}}]",
        "groups: [{method: ties, models: [chat, sea]}]",
        "groups: [{method: ties, lambda: 1, normalize: true}]",
    )
    digests = {Recipe.parse(config.parse(head + text)).digest for text in texts}
    assert len(digests) == 1


def test_lines_scale_by_depth() -> None:
    """Embedding alpha, then a straight line to alpha + beta; final norm and head where asked."""
    places = [place for place in dense(3) if place.layer is None or place.role == "mlp"]
    for head, end in (("deep", 1.0), ("shallow", 0.25)):
        scaled = group("linear", SOURCES, lines=Lines(0.25, 0.75, head))
        assert [scaled.scale(place) for place in places] == [0.25, 0.25, 0.625, 1.0, end, end]
    # one block is the last: with the authors' beta = 1 - alpha it keeps all of the merge
    assert scaled.scale(Place(0, "attn", 1)) == 1.0
    assert {group("linear", SOURCES).scale(place) for place in places} == {1.0}


def test_the_automatic_alpha_is_one_over_the_models_for_a_sum() -> None:
    assert auto_alpha(3.0, 3.0, 4) == auto_alpha(0.0, 0.0, 4) == 0.25
    assert auto_alpha(3.0, 6.0, 2) == 0.25


def test_only_models_that_some_group_reads_are_used() -> None:
    head = "base: b\nmodels: {chat: a, sea: c}\ngroups:\n"
    for group_text, used in (
        ("- {method: linear}", ("chat", "sea")),
        ("- {method: linear, models: [base, sea]}", ("base", "sea")),
        ("- {method: slerp, models: [sea]}", ("base", "sea")),
        ("- {method: passthrough, models: [chat]}", ("chat",)),
        (
            "- {method: passthrough, models: [chat], lines: {alpha: 0, beta: 1}}",
            ("base", "chat"),
        ),
    ):
        assert Recipe.parse(config.parse(head + group_text)).used == used


def test_folders_are_relative_to_the_recipe_and_portable_when_absolute(tmp_path: Path) -> None:
    text = "base: ../base\nmodels: {a: org/name@v1, b: embedded:chat, c: ./own+../lora}\n"
    path = tmp_path / "recipes" / "r.yaml"
    path.parent.mkdir()
    path.write_text(text + "groups: [{method: linear}]\n")
    recipe = Recipe.load(path)
    assert recipe.plain["base"] == "../base"
    portable = recipe.portable().plain
    assert portable["base"] == str(tmp_path / "base")
    assert portable["models"] == {
        "a": "org/name@v1",
        "b": "embedded:chat",
        "c": f"{tmp_path / 'recipes' / 'own'}+{tmp_path / 'lora'}",
    }
    recipe.save(path)
    assert Recipe.load(path) == recipe


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: {a: x}", "groups: missing; expected a list of groups"),
        ("models: {a: x}\ngroups: []", "groups: expected a list of at least one group"),
        ("groups: [{method: linear}]", "models: expected at least one source model"),
        ("models: {a: null}\ngroups: [{method: linear}]", "models.a: expected a folder or hub id, found None"),
        ("models: {base: x}\ngroups: [{method: linear}]", "'base' is the base's own name"),
        ("models: {a: x}\ngroups: [{method: ties}]", "ties needs the base model, and there is none"),
        ("models: {a: x}\ngroups: [{method: linear, models: [base]}]", "no source 'base'"),
        ("models: {a: x}\ngroups: [3]", "groups[0]: expected a mapping of keys, found 3"),
        ("models: {a: x}\ngroups: [{}]", "groups[0].method: missing"),
        ("models: {a: x}\ngroups: [{method: linear, tensors: []}]", "groups[0].tensors: expected at least one name"),
        ("base: b\nmodels: {a: x}\ngroups: [{method: ties, lambda: {a: 1}}]", "one value for all models"),
        ("base: b\nmodels: {a: x}\ngroups: [{method: ties, density: 2}]", "expected a number in [0, 1], found 2"),
        ("base: b\nmodels: {a: x}\ngroups: [{method: linear, normalize: 1}]", "expected false or true, found 1"),
        ("base: b\nmodels: {a: x}\ngroups: [{method: ties, lines: 1}]", "lines: expected a mapping of keys, found 1"),
        ("base: b\nmodels: {a: x}\ngroups: [{method: ties, lines: {alpha: 1}}]", "lines.beta: missing; expected a number"),
        ("base: b\nmodels: {a: x}\ngroups: [{method: ties, lines: {alpha: .nan, beta: 0}}]", "expected a number, found nan"),
        ("base: b\nmodels: {a: x}\ngroups: [{method: ties, lines: {alpha: 1, beta: 0, heads: deep}}]", "did you mean 'head'?"),
        ("models: {a: x}\ngroups: [{method: linear, lines: {alpha: 1, beta: 0}}]", "changes in the base model, and there is none"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(config.parse(text, "r.yaml"))
    assert says in str(caught.value)
