"""Models of other blocks lie in the memory of the last one, and keep what they share with it."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.checkpoint import ModelRef
from evomerge.engines import EngineOptions
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.merging import Materializer, Merge, open_parents
from evomerge.merging.blueprint import Site
from evomerge.paths import Hop
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.engines import recipe_of
from evomerge.testing.zoo import tiny_members

RECIPE = recipe_of(group("task_arithmetic", ("chat", "sea"), {"weight": 0.5}))


def along(*path: Hop) -> Recipe:
    return replace(RECIPE, body=replace(RECIPE.body, path=path or None))


@pytest.fixture
def opened() -> tuple[Materializer, HuggingFaceEngine]:
    parents = open_parents(RECIPE)
    materializer = Materializer(parents)
    return materializer, HuggingFaceEngine.open(
        materializer.outline(None), parents.donor, EngineOptions()
    )


def memory(engine: HuggingFaceEngine) -> dict[str, int]:
    model: Any = engine.module()
    return {name: p.data_ptr() for name, p in model.named_parameters(remove_duplicate=False)}


def test_a_block_twice_takes_no_memory(opened: tuple[Materializer, HuggingFaceEngine]) -> None:
    materializer, engine = opened
    engine.load(Merge(materializer, along()))
    usual = memory(engine)
    engine.load(Merge(materializer, along(*map(Hop, (0, 1, 2, 1, 2, 3)))))
    deeper = memory(engine)
    assert set(deeper.values()) == set(usual.values())
    name = "model.layers.{}.mlp.up_proj.weight"
    assert deeper[name.format(1)] == deeper[name.format(3)] == usual[name.format(1)]
    # what differs by scale or by model needs memory of its own
    engine.load(
        Merge(materializer, along(Hop(0), Hop(1), Hop(1, "sea"), Hop(1, None, 0.5), Hop(3)))
    )
    assert len({memory(engine)[name.format(at)] for at in range(5)}) == 5


def test_only_what_is_new_is_merged(
    opened: tuple[Materializer, HuggingFaceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    materializer, engine = opened
    merged: list[str] = []
    plain = Materializer._merge

    def counted(self: Materializer, recipe: Recipe, task: Any, *rest: Any) -> None:
        site: Site = task.site
        merged.append(site.name)
        plain(self, recipe, task, *rest)

    monkeypatch.setattr(Materializer, "_merge", counted)
    engine.load(Merge(materializer, along()))
    assert len(merged) == len(materializer.outline(None).sites)
    merged.clear()
    engine.load(Merge(materializer, along(*map(Hop, (0, 2, 1, 1, 2, 3)))))
    assert not merged, "the same blocks in another order"
    engine.load(Merge(materializer, along(Hop(0), Hop(1), Hop(2), Hop(2, "sea"), Hop(3))))
    assert {name.split(".")[2] for name in merged} == {"3"}


def test_the_way_back_is_right(opened: tuple[Materializer, HuggingFaceEngine]) -> None:
    """Through depths and orders, each as an engine answers that was asked nothing before."""
    materializer, engine = opened
    prompt = list(range(5, 25))
    ways: list[tuple[Hop, ...]] = [
        (),
        tuple(map(Hop, (0, 1, 1, 2, 3))),
        (Hop(3),),
        tuple(map(Hop, (3, 2, 1, 0))),
        (Hop(0), Hop(1, "chat"), Hop(1, None, 1.2), Hop(3)),
        (),
    ]
    for way in ways:
        engine.load(Merge(materializer, along(*way)))
        parents = open_parents(RECIPE)
        other = Materializer(parents)
        fresh = HuggingFaceEngine.open(other.outline(None), parents.donor, EngineOptions())
        fresh.load(Merge(other, along(*way)))
        one, two = (each.module()(torch.tensor([prompt])).logits for each in (engine, fresh))
        assert torch.equal(one, two)


def test_blocks_of_one_shape_and_two_kinds_keep_their_masks(tmp_path: Path) -> None:
    """GPT-Neo's local and global attention differ by a buffer alone, which a block must not inherit."""
    made = tiny_members(tmp_path, "gpt_neo", "GPTNeoForCausalLM", ("base", "a"), window_size=8)
    base, source = (ModelRef(str(folder)) for folder in made.values())
    plain = Recipe(base, {"a": source}, Body((group("linear", ("a",)),)), "float32", tokenizer="a")
    parents = open_parents(plain)
    materializer = Materializer(parents)
    engine = HuggingFaceEngine.open(materializer.outline(None), parents.donor, EngineOptions())
    engine.load(Merge(materializer, plain))
    tokens = torch.arange(40)[None]
    for blocks in ((3, 2), (0, 1, 2, 1, 2, 3), (1,)):
        recipe = replace(plain, body=replace(plain.body, path=tuple(map(Hop, blocks))))
        engine.load(Merge(materializer, recipe))
        outline = materializer.outline(recipe.body.path)
        fresh = HuggingFaceEngine.open(outline, parents.donor, EngineOptions())
        fresh.load(Merge(Materializer(parents), recipe))
        one, two = (each.module()(tokens, use_cache=False).logits for each in (engine, fresh))
        assert torch.equal(one, two), blocks


def test_a_model_that_is_made_anew_is_alone_in_memory(
    opened: tuple[Materializer, HuggingFaceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last one's memory is of no use, it is gone before there is another."""
    materializer, engine = opened
    engine.load(Merge(materializer, along()))
    model: Any = engine.module()
    last = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    del model
    monkeypatch.setattr("evomerge.engines.huggingface.engine.arranged", lambda *given: None)
    build, seen = engine._build, list[bool]()
    assert build is not None

    def watched(outline: Any) -> Any:
        seen.append(last() is None and not materializer._live)
        return build(outline)

    monkeypatch.setattr(engine, "_build", watched)
    engine.load(Merge(materializer, along(Hop(0), Hop(1))))
    assert seen == [True]
