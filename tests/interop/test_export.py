from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge import config
from evomerge.checkpoint import ModelRef
from evomerge.errors import InputError
from evomerge.interop import to_mergekit
from evomerge.lines import Lines
from evomerge.paths import Hop
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.testing.models import tiny_family

MakeRecipe = Callable[..., Recipe]
SOURCES = ("chat", "sea")


def exported(recipe: Recipe) -> dict[str, Any]:
    content = config.parse(to_mergekit(recipe)).plain
    assert isinstance(content, dict)
    return content


def weigh(weight: float, **where: Any) -> Group:
    return group("task_arithmetic", SOURCES, {"weight": weight}, **where)


def test_one_group_is_one_slice(family: dict[str, Path], recipe_of: MakeRecipe) -> None:
    weight = {"chat": 0.5, "sea": 0.25}
    recipe = recipe_of(family, group("dare_ties", SOURCES, {"weight": weight, "density": 1.0}))
    assert exported(recipe) == {
        "merge_method": "dare_ties",
        "base_model": str(family["base"]),
        "slices": [
            {
                "sources": [
                    {
                        "model": str(family[name]),
                        "layer_range": [0, 4],
                        "parameters": {"weight": weight[name], "density": 1.0},
                    }
                    for name in SOURCES
                ]
                + [{"model": str(family["base"]), "layer_range": [0, 4]}],
                "parameters": {"lambda": 1.0, "normalize": False, "rescale": True},
            }
        ],
        "dtype": "float32",
        "out_dtype": "float32",
        "tokenizer": {"source": str(family["chat"])},
    }


def test_blocks_become_slices_and_roles_filters(
    family: dict[str, Path], recipe_of: MakeRecipe
) -> None:
    recipe = recipe_of(
        family,
        weigh(0.1, layers=(0, 1), roles=["attn"]),
        weigh(0.2, layers=(0, 1)),
        weigh(0.3, layers=(2, 3)),
        weigh(0.4, roles=["embed"]),
        weigh(0.5),
    )
    slices = exported(recipe)["slices"]
    assert [part["sources"][0]["layer_range"] for part in slices] == [[0, 2], [2, 4]]
    first, last = (part["sources"][0]["parameters"]["weight"] for part in slices)
    # mergekit takes the first filter that a name contains: norms must come before attention
    assert first == [
        {"filter": "norm", "value": 0.2},
        {"filter": "self_attn", "value": 0.1},
        {"filter": "mlp", "value": 0.2},
        {"filter": "embed_tokens", "value": 0.4},
    ]
    assert last == [
        {"filter": "model.norm", "value": 0.5},
        {"filter": "norm", "value": 0.3},
        {"filter": "self_attn", "value": 0.3},
        {"filter": "mlp", "value": 0.3},
        {"filter": "lm_head", "value": 0.5},
    ]


def test_tensors_that_differ_become_filters_of_their_own(
    family: dict[str, Path], recipe_of: MakeRecipe
) -> None:
    recipe = recipe_of(
        family,
        weigh(0.1, named=["model.layers.0.input_layernorm.weight"]),
        weigh(0.2, roles=["q", "down"]),
        weigh(0.3),
    )
    slices = exported(recipe)["slices"]
    assert [part["sources"][0]["layer_range"] for part in slices] == [[0, 1], [1, 4]]
    first, last = (part["sources"][0]["parameters"]["weight"] for part in slices)
    attention = [("k", 0.3), ("o", 0.3), ("q", 0.2), ("v", 0.3)]
    projections = [
        *({"filter": f"self_attn.{part}_proj", "value": value} for part, value in attention),
        {"filter": "mlp.down_proj", "value": 0.2},
        {"filter": "mlp.gate_proj", "value": 0.3},
        {"filter": "mlp.up_proj", "value": 0.3},
    ]
    assert first == [
        {"filter": "input_layernorm", "value": 0.1},
        {"filter": "post_attention_layernorm", "value": 0.3},
        *projections,
        {"filter": "embed_tokens", "value": 0.3},
    ]
    assert last == [
        {"filter": "norm", "value": 0.3},
        *projections,
        {"filter": "lm_head", "value": 0.3},
    ]


def test_norms_inside_attention_come_before_attention(
    tmp_path: Path, recipe_of: MakeRecipe
) -> None:
    qwen = tiny_family(tmp_path, architecture="Qwen3", num_hidden_layers=1)
    recipe = recipe_of(
        qwen, weigh(0.1, named=["model.layers.0.self_attn.q_norm.weight"]), weigh(0.3)
    )
    (part,) = exported(recipe)["slices"]
    texts = [entry["filter"] for entry in part["sources"][0]["parameters"]["weight"]]
    assert texts[:2] == ["model.norm", "input_layernorm"]
    assert texts.index("self_attn.q_norm") < texts.index("self_attn") == len(texts) - 4


def test_a_bias_that_differs_from_its_weight_is_named(
    tmp_path: Path, recipe_of: MakeRecipe
) -> None:
    qwen = tiny_family(tmp_path, architecture="Qwen2", num_hidden_layers=1)
    head = "model.layers.0.self_attn."
    recipe = recipe_of(
        qwen,
        weigh(0.1, named=[f"{head}q_proj.bias"]),
        weigh(0.2, named=[f"{head}k_proj.bias", f"{head}k_proj.weight"]),
        weigh(0.3),
    )
    (part,) = exported(recipe)["slices"]
    weight = part["sources"][0]["parameters"]["weight"]
    assert [(e["filter"], e["value"]) for e in weight if "self_attn" in e["filter"]] == [
        ("self_attn.k_proj", 0.2), ("self_attn.o_proj", 0.3), ("self_attn.q_proj.bias", 0.1),
        ("self_attn.q_proj.weight", 0.3), ("self_attn.v_proj", 0.3),
    ]  # fmt: skip


def test_a_line_over_depth_goes_into_lambda(family: dict[str, Path], recipe_of: MakeRecipe) -> None:
    lines = Lines(0.4, 0.6)
    recipe = recipe_of(family, group("task_arithmetic", SOURCES, {"lambda": 0.5}, lines=lines))
    slices = exported(recipe)["slices"]
    assert [part["parameters"]["lambda"] for part in slices] == pytest.approx([0.2, 0.3, 0.4, 0.5])
    with pytest.raises(InputError, match="slerp has no lambda to take it up"):
        to_mergekit(recipe_of(family, group("slerp", ("chat",), lines=lines)))


def test_methods_that_differ_become_documents(
    family: dict[str, Path], recipe_of: MakeRecipe
) -> None:
    recipe = recipe_of(
        family,
        group("ties", SOURCES, layers=(0, 1), roles=["attn"]),
        group("linear", SOURCES, layers=(0, 2)),
        group("linear", ("chat",)),
    )
    text = to_mergekit(recipe)
    assert text.startswith("# run with: mergekit-multi")
    *parts, last = yaml.safe_load_all(text)
    assert [part["merge_method"] for part in parts] == ["linear", "linear", "ties"]
    assert [len(part["slices"][0]["sources"]) for part in parts] == [1, 2, 3]
    assert "name" not in last
    assert last["merge_method"] == "linear"
    names = [part["name"] for part in parts]
    low = last["slices"][0]
    assert [source["model"] for source in low["sources"]] == names
    weights = [source["parameters"]["weight"] for source in low["sources"]]
    by_filter = {
        entry["filter"]: [
            next(e["value"] for e in w if e["filter"] == entry["filter"]) for w in weights
        ]
        for entry in weights[0]
    }
    assert by_filter == {
        "norm": [0.0, 1.0, 0.0],
        "self_attn": [0.0, 0.0, 1.0],
        "mlp": [0.0, 1.0, 0.0],
        "embed_tokens": [1.0, 0.0, 0.0],
    }


def test_folders_are_made_absolute(
    family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(family["base"].parent)
    models = {name: ModelRef(name) for name in SOURCES}
    recipe = Recipe(None, models, Body((group("linear", SOURCES),)), "float32", tokenizer="chat")
    content = exported(recipe)
    assert "base_model" not in content  # linear has none
    listed = [source["model"] for source in content["slices"][0]["sources"]]
    assert listed == [str(family[name]) for name in SOURCES]


@pytest.mark.parametrize("name", ["a b", "a@b", "a+b"])
def test_names_that_mergekit_cannot_read_are_refused(
    family: dict[str, Path], tmp_path: Path, recipe_of: MakeRecipe, name: str
) -> None:
    (tmp_path / name).symlink_to(family["sea"])
    recipe = recipe_of({**family, "sea": tmp_path / name}, weigh(1.0))
    with pytest.raises(InputError, match="rename it"):
        to_mergekit(recipe)


def test_a_merge_of_merges_is_called_by_no_path(
    family: dict[str, Path], tmp_path: Path, recipe_of: MakeRecipe
) -> None:
    """mergekit makes a folder by the name of each."""
    recipe_of(family, weigh(1.0)).save(tmp_path / "inner.yaml")
    models = {"../../a": tmp_path / "inner.yaml", ".._.._a": tmp_path / "inner.yaml"}
    content = {
        "models": {name: str(path) for name, path in models.items()},
        "dtype": "float32",
        "groups": [
            {"method": "linear", "models": list(models), "weight": dict.fromkeys(models, 0.5)}
        ],
    }
    (tmp_path / "outer.yaml").write_text(config.dump(content))
    names = [
        each["name"]
        for each in yaml.safe_load_all(to_mergekit(Recipe.load(tmp_path / "outer.yaml")))
        if "name" in each
    ]
    assert names == ["merge-.._.._a", "merge-.._.._a-2"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ((Hop(0, "sea"), Hop(1)), "the path begins with a block of sea as it is, and there mergekit takes the embedding of sea"),
        ((Hop(0), Hop(1, "sea")), "the path ends with a block of sea as it is, and there mergekit takes final norm and head of sea"),
    ],
)  # fmt: skip
def test_ends_that_mergekit_takes_elsewhere_are_refused(
    family: dict[str, Path], recipe_of: MakeRecipe, path: tuple[Hop, ...], says: str
) -> None:
    recipe = recipe_of(family, weigh(1.0))
    with pytest.raises(InputError, match=f"{says}.*begin and end with blocks of the merge"):
        to_mergekit(replace(recipe, body=replace(recipe.body, path=path)))


def test_hub_ids_stay(hub: dict[str, str], recipe_of: MakeRecipe) -> None:
    recipe = recipe_of(hub, weigh(1.0), tokenizer="sea")
    content = exported(recipe)
    listed = [source["model"] for source in content["slices"][0]["sources"]]
    assert listed == [hub["chat"], hub["sea"], hub["base"]]
    assert (content["base_model"], content["tokenizer"]["source"]) == (hub["base"], hub["sea"])


def test_a_padded_vocabulary_keeps_its_rows(tmp_path: Path, recipe_of: MakeRecipe) -> None:
    """Told to take a tokenizer, mergekit would cut the rows that it does not name."""
    family = tiny_family(tmp_path)
    for folder in family.values():
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        del tokenizer["model"]["vocab"]["a"]
        path.write_text(json.dumps(tokenizer))
    text = to_mergekit(recipe_of(family, group("linear", SOURCES)))
    assert text.startswith(f"# copy the tokenizer files of {family['chat']}")
    assert "tokenizer" not in config.parse(text).plain
    # what mergekit copies by itself needs no words
    assert to_mergekit(recipe_of(family, weigh(1.0), tokenizer="base")).startswith("merge_method")


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([group("widen", SOURCES)], "mergekit has no widen; it knows linear, "),
        ([group("dare_ties", SOURCES)], "dare_ties: it drops entries at random"),
        (
            [group("dare_linear", SOURCES, {"density": 1.0, "rescale": "density"})],
            "mergekit has no `rescale: density`",
        ),
        (
            [group("nuslerp", SOURCES)],
            "no tolerance, it does what `tolerance: 1e-16` does, not 1e-06",
        ),
        ([group("model_stock", SOURCES)], "it does what `clip: false` does, not true; set it so"),
        ([group("ties", SOURCES, {"weight": {"chat": 1, "sea": -0.5}})], "Set normalize: signed"),
        ([group("nearswap", ("chat",), {"t": 1e-7})], "mergekit has no t below 1e-6"),
        ([group("ties", ("base", "chat"))], "does not take the base for one of the sources"),
        ([group("linear", SOURCES, layers=(0, 9))], "no group of the recipe matches"),
        (
            [weigh(1.0, named=["model.layers.7.mlp.up_proj.weight"]), weigh(1.0)],
            "no tensor of the merged model is called 'model.layers.7.mlp.up_proj.weight'",
        ),
    ],
)
def test_what_mergekit_cannot_say_is_refused(
    family: dict[str, Path], recipe_of: MakeRecipe, groups: list[Group], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        to_mergekit(recipe_of(family, *groups))


def test_a_file_of_adapters_says_how_mergekit_rounds_them(
    family: dict[str, Path], tmp_path: Path, recipe_of: MakeRecipe
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(family["base"]),
        LoraConfig(r=2, target_modules=["v_proj"]),
    )
    model.save_pretrained(tmp_path / "lora")
    adapted = {**family, "sea": f"{family['base']}+{tmp_path / 'lora'}"}
    text = to_mergekit(recipe_of(adapted, weigh(0.5)))
    said = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert "mergekit rounds model + adapter before it merges, evomerge the exact merge once" in said
    assert config.parse(text).plain["out_dtype"] == "float32"  # type: ignore[index, call-overload]
    assert "rounds" not in to_mergekit(recipe_of(family, weigh(0.5)))
