"""Variants of a recipe with one thing left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge import Recipe
from evomerge.checkpoint import ModelRef
from evomerge.judging.ablations import variants
from evomerge.recipe import BASE, Body, Group, group


def recipe(*groups: Group, base: bool = True, models: tuple[str, ...] = ("chat", "sea")) -> Recipe:
    ref = {name: ModelRef(f"embedded:{name}") for name in models}
    return Recipe(
        ModelRef("embedded:base") if base else None, ref, Body(groups), tokenizer=models[0]
    )


def test_every_parent_is_left_out_and_then_parts_of_the_depth_are_set_back() -> None:
    whole = group("task_arithmetic", ("chat", "sea"), {"weight": {"chat": 0.5, "sea": 0.7}})
    found = variants(recipe(whole), layers=4, most=7)
    assert [(each.kind, each.without) for each in found] == [
        ("parent", "chat"),
        ("parent", "sea"),
        ("part", "attn, layers 0-1"),
        ("part", "mlp, layers 0-1"),
        ("part", "attn, layers 2-3"),
        ("part", "mlp, layers 2-3"),
        ("part", "norm, embed, head"),
    ]
    first = found[0].recipe.groups[0]
    assert first.models == ("sea",) and first.values["weight"] == {"sea": 0.7}
    back = found[2].recipe.groups
    assert back[0].models == (BASE,) and back[0].layers == (0, 1) and back[1:] == (whole,)
    for each in found:  # a recipe that can be written and read
        assert Recipe.from_plain(each.recipe.plain).digest == each.recipe.digest


@pytest.mark.parametrize("most", [1, 2, 3, 4, 12, 100])
def test_there_are_no_more_than_asked_and_parts_never_overlap(most: int) -> None:
    whole = group("task_arithmetic", ("chat", "sea"))
    found = variants(recipe(whole), layers=3, most=most)
    assert len(found) <= most
    spans = [each.recipe.groups[0] for each in found if each.kind == "part"]
    covered = [(layer, role) for span in spans if span.layers for role in span.roles or () for layer in range(span.layers[0], span.layers[1] + 1)]  # fmt: skip
    assert len(covered) == len(set(covered))
    if most >= 5:
        assert {layer for layer, _ in covered} == {0, 1, 2}


def test_a_method_that_needs_all_its_models_gets_a_weight_of_0_or_gives_way() -> None:
    both = group("nuslerp", ("chat", "sea"), {"weight": {"chat": 0.5, "sea": 0.7}})
    without = variants(recipe(both), layers=2, most=1)[0].recipe.groups[0]
    assert without.models == ("chat", "sea") and without.values["weight"] == {
        "chat": 0.0,
        "sea": 0.7,
    }
    arc = group("slerp", ("sea",), {"t": 0.3}, roles=("mlp",))
    (lacking,) = variants(recipe(arc, group("linear", ("sea", "chat"))), layers=2, most=2)[1:]
    assert lacking.without == "sea"
    assert lacking.recipe.groups[0].method == "passthrough"
    assert lacking.recipe.groups[0].models == (BASE,) and lacking.recipe.groups[0].roles == ("mlp",)


def test_what_is_not_merged_cannot_be_left_out_and_without_a_base_there_are_no_parts() -> None:
    found = variants(recipe(group("linear", ("chat", "sea")), base=False), layers=4, most=9)
    assert [each.without for each in found] == ["chat", "sea"]
    alone = replace(recipe(group("passthrough", ("chat",))))
    assert [each.without for each in variants(alone, layers=1, most=1)] == ["chat"]
