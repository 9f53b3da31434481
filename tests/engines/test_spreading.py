"""A model over two devices answers, merges and has the slopes that it has on one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import two_devices

from evomerge.checkpoint import ModelRef
from evomerge.engines import Request
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.engines.huggingface.building import build_model
from evomerge.engines.huggingface.spreading import place, spread
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import InputError
from evomerge.lines import Lines
from evomerge.merging import Materializer, Merge, open_parents
from evomerge.recipe import Body, Recipe, group
from evomerge.scorers.lessons import Choice
from evomerge.skeleton import Skeleton
from evomerge.skeleton.modules import meta_model
from evomerge.slopes import losses
from evomerge.slopes.coefficients import slope
from evomerge.testing.models import tiny_family
from evomerge.testing.zoo import decoders, tiny_config, tiny_members
from evomerge.worker import Setup

SOURCES = ("chat", "sea")
PLENTY = 10**9


pytestmark = pytest.mark.usefixtures("quiet")


def config_of(layers: int, **changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "tie_word_embeddings": False,
        **changes,
    }


def test_blocks_stay_whole_and_loads_are_even() -> None:
    model = meta_model(config_of(8), "a model")
    placed = place(model, {"cuda:0": PLENTY, "cuda:1": PLENTY})
    blocks = [placed[f"model.layers.{n}"] for n in range(8)]
    assert blocks == sorted(blocks) and set(blocks) == {"cuda:0", "cuda:1"}
    assert abs(blocks.count("cuda:0") - 4) <= 1
    assert placed["model.embed_tokens"] == "cuda:0" and placed["lm_head"] == "cuda:1"
    assert not any(name.startswith("model.layers.0.") for name in placed)


def test_a_tied_head_stays_with_its_embedding() -> None:
    placed = place(
        meta_model(config_of(8, tie_word_embeddings=True), "a model"), {"a": PLENTY, "b": PLENTY}
    )
    assert placed["lm_head"] == placed["model.embed_tokens"] == "a"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"the model takes .* GB, its blocks whole.*--num-gpus"):
        place(meta_model(config_of(8), "a model"), {"cuda:0": 200_000, "cuda:1": 200_000})


def test_what_nobody_says_how_to_split_is_refused() -> None:
    content = tiny_config("ctrl").to_dict() | {"architectures": ["CTRLLMHeadModel"]}
    assert not Skeleton.of(content, "a model").whole
    assert Skeleton.of(config_of(2), "a model").whole == ("LlamaDecoderLayer",)
    with pytest.raises(InputError, match="which modules of CTRLLMHeadModel must stay together"):
        place(meta_model(content, "a model"), {"cuda:0": PLENTY, "cuda:1": PLENTY})


def test_more_gpus_than_there_are_is_refused() -> None:
    setup = Setup({}, "base", "float32", {}, gpus=64)
    with pytest.raises(InputError, match="--num-gpus 64: a worker cannot have so many GPUs"):
        _ = setup.devices
    with pytest.raises(InputError, match="of cpu"):
        _ = replace(setup, device="cpu").devices
    assert replace(setup, device="cpu", gpus=1).devices == ("cpu",)


def requests() -> list[Request]:
    draws = random.Random(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(draws.randrange(2, 90) for _ in range(count))

    header = some(20)
    return [Request(header + some(size), some(n)) for size in (3, 17) for n in (1, 4)]


LESSONS = [
    Choice(tuple(Request(tuple(range(5, 30)), (n, n + 1)) for n in (40, 50)), frozenset({1})),
]


def results(
    members: dict[str, Path], memory: dict[str, int], *, whole: bool = True
) -> dict[str, Any]:
    """What an engine is asked for, of a merge over the devices that ``memory`` names; ``whole``: slopes, too."""
    models = {name: ModelRef(str(folder)) for name, folder in members.items()}
    weights = {"weight": {"chat": 0.6, "sea": 0.3}}
    recipe = Recipe(
        models.pop("base"),
        models,
        Body(
            (
                group("ties", SOURCES, {**weights, "density": 0.5}, layers=(0, 0)),
                group("dare_linear", SOURCES, weights, layers=(1, 1)),
                group("task_arithmetic", SOURCES, weights, lines=Lines(0.8, 0.2)),
            )
        ),
        "float32",
    )
    parents = open_parents(recipe)
    first = next(iter(memory))
    materializer = Materializer(parents, device=first, memory=PLENTY)
    donor = parents.donor
    model = build_model(materializer.outline(None), donor, "float32", "cpu")
    model = model.to(first) if len(memory) == 1 else spread(model, memory)
    engine = HuggingFaceEngine(model, load_tokenizer(donor), device=first, batch_tokens=128)
    merge = Merge(materializer, recipe)
    engine.load(merge)
    asked = requests()
    prompts = [request.context for request in asked]
    found: dict[str, Any] = {
        "devices": {str(each.device) for each in model.parameters()},
        "weights": {name: each.to("cpu").clone() for name, each in model.named_parameters()},
        "nats": [list(each) for each in engine.loglikelihood(asked)],
        "greedy": engine.generate(prompts, until=["q"], limit=4),
    }
    if whole:
        found["beams"] = engine.generate(prompts, until=["q"], limit=3, options={"num_beams": 2})
        for again in (False, True):
            loss = losses.make("lead", 1.0)
            made = slope(engine, merge, LESSONS, loss, checkpoint=again)
            found[f"slope {again}"] = made.tensors
    return found


def close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return all(map(close, one, other))
    return bool(one == pytest.approx(other, rel=1e-3, abs=1e-4))


@pytest.mark.parametrize("kind", ["tied", "untied", "lfm2"])
def test_two_devices_do_what_one_does(kind: str, tmp_path: Path) -> None:
    if kind in ("tied", "untied"):
        members = tiny_family(tmp_path, num_hidden_layers=3, tie_word_embeddings=kind == "tied")
    else:
        architecture = dict(decoders())[kind]
        members = tiny_members(tmp_path, kind, architecture, ("base", *SOURCES))
    whole = kind == "tied"
    alone = results(members, {"cpu": PLENTY}, whole=whole)
    with two_devices() as (first, second):
        apart = results(members, {first: PLENTY, second: PLENTY}, whole=whole)
    assert alone.pop("devices") == {"cpu"} and apart.pop("devices") == {first, second}
    weights = apart.pop("weights")
    for name, tensor in alone.pop("weights").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-6)
    for name, value in alone.items():
        texts = name in ("greedy", "beams")
        assert apart[name] == value if texts else close(apart[name], value), name


def test_what_lies_apart_does_not_mix() -> None:
    """The two devices of these tests are as strict as real ones."""
    with two_devices() as (first, second):
        one, other = torch.ones(3, device=first), torch.ones(3, device=second)
        with pytest.raises(RuntimeError, match="tensors on meta:0, meta:1"):
            one + other
        with pytest.raises(RuntimeError, match="tensors on cpu, meta:1"):
            other[torch.tensor([1, 2])]
        assert (one + other.to(first)).tolist() == [2.0, 2.0, 2.0]
