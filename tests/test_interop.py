from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge import config, merge, methods
from evomerge.checkpoint import ModelRef
from evomerge.errors import InputError
from evomerge.interop import to_mergekit
from evomerge.recipe import Group, Recipe, group
from evomerge.testing.models import tiny_family

SOURCES = ("chat", "sea")
MERGEKIT = os.environ.get("EVOMERGE_MERGEKIT_PYTHON")


def recipe_of(family: dict[str, Path], *groups: Group, **options: Any) -> Recipe:
    refs = {name: ModelRef(str(folder)) for name, folder in family.items()}
    base = refs.pop("base")
    return Recipe(base, refs, groups, **{"dtype": "float32", "tokenizer": "chat", **options})


def exported(recipe: Recipe) -> dict[str, Any]:
    content = config.parse(to_mergekit(recipe)).plain
    assert isinstance(content, dict)
    return content


def test_one_group_is_one_slice(family: dict[str, Path]) -> None:
    weight = {"chat": 0.5, "sea": 0.25}
    recipe = recipe_of(family, group("ties", SOURCES, {"weight": weight, "lambda": 0.8}))
    shared = {"lambda": 0.8, "normalize": True, "rescale": False}
    assert exported(recipe) == {
        "merge_method": "ties",
        "base_model": str(family["base"]),
        "slices": [
            {
                "sources": [
                    {
                        "model": str(family[name]),
                        "layer_range": [0, 4],
                        "parameters": {"weight": weight[name], "density": 0.5},
                    }
                    for name in SOURCES
                ]
                + [{"model": str(family["base"]), "layer_range": [0, 4]}],
                "parameters": shared,
            }
        ],
        "dtype": "float32",
        "out_dtype": "float32",
        "tokenizer": {"source": str(family["chat"])},
    }


def test_blocks_become_slices_and_roles_filters(family: dict[str, Path]) -> None:
    def weigh(weight: float, **where: Any) -> Group:
        return group("task_arithmetic", SOURCES, {"weight": weight}, **where)

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
    ]


def test_a_padded_vocabulary_keeps_its_rows(tmp_path: Path) -> None:
    """Told to take a tokenizer, mergekit would cut the rows that it does not name."""
    family = tiny_family(tmp_path)
    path = family["chat"] / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    del tokenizer["model"]["vocab"]["a"]
    path.write_text(json.dumps(tokenizer))
    text = to_mergekit(recipe_of(family, group("linear", SOURCES)))
    assert text.startswith(f"# copy the tokenizer files of {family['chat']}")
    assert "tokenizer" not in config.parse(text).plain


def test_relative_folders_are_made_absolute(
    family: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(family["base"].parent)
    recipe = recipe_of({name: Path(name) for name in family}, group("linear", SOURCES))
    content = exported(recipe)
    assert "base_model" not in content  # linear has none
    assert [s["model"] for s in content["slices"][0]["sources"]] == [
        str(family[n]) for n in SOURCES
    ]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([group("widen", SOURCES)], "mergekit has no widen; it knows linear, "),
        (
            [group("ties", SOURCES, layers=(0, 1)), group("linear", SOURCES)],
            "one merge method; this recipe uses linear, ties",
        ),
        ([group("dare_ties", SOURCES)], "dare_ties drops entries at random"),
        (
            [group("linear", SOURCES, layers=(0, 1)), group("linear", ("chat",))],
            "every layer the same models",
        ),
        ([group("linear", SOURCES, layers=(0, 9))], "no group of the recipe matches"),
    ],
)
def test_what_mergekit_cannot_say_is_refused(
    family: dict[str, Path], groups: list[Group], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        to_mergekit(recipe_of(family, *groups))


# -- against mergekit itself ---------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
import torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
torch.set_num_threads(1)
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    parsed = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    run_merge(parsed, str(path.with_suffix("")), MergeOptions(copy_tokenizer=False))
"""


def varied(name: str, models: tuple[str, ...], fixed: dict[str, Any]) -> tuple[Group, ...]:
    """Other values by block and role, in the embedding, the final norm and the head."""
    per_model = [p.name for p in methods.get(name).parameters if p.name in ("weight",)]

    def at(number: int, **where: Any) -> Group:
        values = dict(fixed)
        for parameter in per_model:
            values[parameter] = {m: 0.3 + 0.1 * number + 0.35 * i for i, m in enumerate(models)}
        if name == "slerp":
            values["t"] = 0.1 * (number + 1)
        if name == "passthrough":
            values["scale"] = 0.8 + 0.05 * number
        return group(name, models, values, **where)

    return (
        at(0, layers=(0, 1), roles=["attn"]),
        at(1, layers=(0, 1), roles=["mlp"]),
        at(2, layers=(0, 1)),
        at(3, layers=(2, 3), roles=["norm"]),
        at(4, layers=(2, 3)),
        at(5, roles=["embed"]),
        at(6, roles=["norm"]),
        at(7),
    )


CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "linear": (SOURCES, {}),
    "task_arithmetic": (SOURCES, {"lambda": 0.8}),
    "slerp": (("chat",), {}),
    "ties": (SOURCES, {"density": {"chat": 0.4, "sea": 0.7}, "lambda": 0.9}),
    "dare_linear": (SOURCES, {"density": 1.0}),
    "dare_ties": (SOURCES, {"density": 1.0}),
    "passthrough": (("sea",), {}),
}


@pytest.mark.skipif(MERGEKIT is None, reason="EVOMERGE_MERGEKIT_PYTHON names no interpreter")
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Gemma2"])
def test_mergekit_merges_an_exported_recipe_to_the_same_tensors(
    tmp_path: Path, architecture: str
) -> None:
    family = tiny_family(
        tmp_path / "models", architecture=architecture, tie_word_embeddings=architecture != "Qwen2"
    )
    exports = tmp_path / "exports"
    exports.mkdir()
    recipes = {}
    for name, (models, fixed) in CASES.items():
        recipe = recipe_of(family, *varied(name, models, fixed), dtype="bfloat16", tokenizer="base")
        recipes[name] = recipe
        content = exported(recipe)
        if architecture == "Qwen2":  # whose class adds tokens to a tokenizer as small as this one
            del content["tokenizer"]
        (exports / f"{name}.yaml").write_text(config.dump(content), encoding="utf-8")
    done = subprocess.run(
        [str(MERGEKIT), "-c", RUN, str(exports)],
        capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name, recipe in recipes.items():
        merge(recipe, tmp_path / name)
        ours, theirs = (
            load_file(folder / name / "model.safetensors") for folder in (tmp_path, exports)
        )
        theirs = {key: tensor for key, tensor in theirs.items() if key in ours}
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert theirs[key].dtype == torch.bfloat16
            torch.testing.assert_close(
                ours[key].float(), theirs[key].float(), rtol=2**-7, atol=1e-6, msg=f"{name} {key}"
            )
