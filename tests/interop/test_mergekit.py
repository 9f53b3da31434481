"""mergekit 0.1.5 itself, as a process of its own: the same models, the same file, the same tensors."""

from __future__ import annotations

import math
import os
import re
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from safetensors.torch import load_file

from evomerge import merge, methods, paths
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.interop import load_recipe, to_mergekit
from evomerge.interop.catalogue import PEERS
from evomerge.merging import open_model, open_parents
from evomerge.merging.blueprint import Blueprint
from evomerge.paths import Hop
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.testing.models import tiny_family

PYTHON = os.environ.get("EVOMERGE_MERGEKIT_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="EVOMERGE_MERGEKIT_PYTHON names no mergekit")

RUN = """
import sys
from pathlib import Path
import torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import main as merge_many
torch.set_num_threads(1)
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    out = path.with_suffix("")
    if path.read_text().count("merge_method") > 1:
        arguments = [str(path), "--out-path", str(out), "--intermediate-dir", f"{out}-parts"]
        merge_many([*arguments, "--no-copy-tokenizer", "--quiet"], standalone_mode=False)
    else:
        parsed = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
        run_merge(parsed, str(out), MergeOptions(copy_tokenizer=False, quiet=True))
"""

PAIR, ALL = ("chat", "sea"), ("chat", "sea", "code")
# what a method is tried with: how many models, and values besides those that vary over the model;
# random methods at densities at which nothing is random
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "linear": (ALL, {}),
    "passthrough": (("sea",), {}),
    "slerp": (("chat",), {}),
    "nuslerp": (PAIR, {"tolerance": 1e-16}),
    "multislerp": (ALL, {}),
    "karcher": (ALL, {}),
    "nearswap": (("chat",), {}),
    "arcee_fusion": (("chat",), {}),
    "task_arithmetic": (ALL, {"lambda": 0.8}),
    "ties": (ALL, {"density": {"chat": 0.4, "sea": 0.7, "code": 1.0}, "lambda": 0.9}),
    "dare_linear": (ALL, {"density": {"chat": 1.0, "sea": 0.0, "code": 1.0}}),
    "dare_ties": (ALL, {"density": 1.0, "normalize": True}),
    "breadcrumbs": (ALL, {"density": 0.6, "gamma": 0.05}),
    "breadcrumbs_ties": (ALL, {"density": {"chat": 0.4, "sea": 0.7, "code": 1.0}}),
    "della": (ALL, {"density": 1.0}),
    "della_linear": (ALL, {"density": 1.0}),
    "sce": (ALL, {"guard": "absolute"}),
    "model_stock": (ALL, {"clip": False, "guard": "absolute"}),
    "ram": (ALL, {"epsilon": 0.03}),
    "ramplus_tl": (ALL, {"epsilon": 0.03}),
}
# the share of entries that may differ: float32 and float64 put a few on other sides of a threshold
FLIPS = {"arcee_fusion": 2e-3}

FILES = {
    "lists over depth": """
        merge_method: slerp
        base_model: {base}
        slices: [{{sources: [{{model: {base}, layer_range: [0, 4]}}, {{model: {chat}, layer_range: [0, 4]}}]}}]
        parameters:
          t: [{{filter: self_attn, value: [0.1, 0.5, 0.3]}}, {{filter: mlp, value: [1, 0]}}, {{value: [0.2, 0.9]}}]
        dtype: float32
        out_dtype: bfloat16
        """,
    "a list of models": """
        merge_method: ties
        base_model: {base}
        models:
          - model: {chat}
            parameters: {{weight: [0.2, 1.0, 0.4], density: 0.5}}
          - model: {sea}
            parameters: {{weight: [{{filter: norm, value: 0.3}}, {{filter: embed, value: 0.6}}], density: [1, 0.3]}}
        parameters: {{weight: 0.8, lambda: [1, 0.5], normalize: true, int8_mask: true}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "slices of one layer and of three": """
        merge_method: linear
        slices:
          - sources:
              - {{model: {chat}, layer_range: [0, 1], parameters: {{weight: [1.0, 0.25]}}}}
              - {{model: {sea}, layer_range: [0, 1], parameters: {{weight: 0.5}}}}
          - sources:
              - {{model: {sea}, layer_range: [1, 4], parameters: {{weight: [0.1, 0.9]}}}}
              - {{model: {chat}, layer_range: [1, 4]}}
        parameters: {{weight: 0.7}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "the base among the models": """
        merge_method: linear
        base_model: {base}
        models: [{{model: {sea}}}, {{model: {base}}}, {{model: {chat}}}]
        parameters: {{weight: 1, normalize: [true, false]}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "a base of each slice": """
        merge_method: slerp
        base_model: {base}
        slices:
          - base_model: {base}
            sources: [{{model: {base}, layer_range: [0, 2]}}, {{model: {chat}, layer_range: [0, 2]}}]
            parameters: {{t: 0.3}}
          - base_model: {chat}
            sources: [{{model: {chat}, layer_range: [2, 4]}}, {{model: {base}, layer_range: [2, 4]}}]
            parameters: {{t: 0.4}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "filters by name": """
        merge_method: task_arithmetic
        base_model: {base}
        models:
          - model: {chat}
            parameters:
              weight: [{{filter: input_layernorm, value: [0.2, 0.7]}}, {{filter: q_proj, value: [0.5, 1]}}, {{value: 0.4}}]
          - model: {sea}
            parameters:
              weight: [{{filter: layers.2.mlp.up, value: 0.9}}, {{filter: proj.weight, value: 0.6}}, {{filter: norm, value: 0.1}}]
        parameters: {{weight: 0.3}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "weights of both signs": """
        merge_method: ties
        base_model: {base}
        models: [{{model: {chat}, parameters: {{weight: -0.6}}}}, {{model: {sea}, parameters: {{weight: [0.9, 0.2]}}}}]
        dtype: float32
        out_dtype: bfloat16
        """,
    "a stack of merges": """
        name: low
        merge_method: task_arithmetic
        base_model: {base}
        models: [{{model: {chat}, parameters: {{weight: 0.5}}}}, {{model: {sea}, parameters: {{weight: [1, 0]}}}}]
        dtype: float32
        ---
        name: high
        merge_method: linear
        models: [{{model: {chat}}}, {{model: {sea}}}]
        parameters: {{weight: 1}}
        dtype: float32
        ---
        merge_method: passthrough
        slices:
          - sources: [{{model: low, layer_range: [0, 2]}}]
          - sources: [{{model: high, layer_range: [2, 4]}}]
        dtype: bfloat16
        """,
    "a merge of merges": """
        merge_method: ties
        base_model: low
        models: [{{model: high, parameters: {{weight: 0.7}}}}, {{model: {code}, parameters: {{weight: 0.4}}}}]
        dtype: float32
        out_dtype: bfloat16
        ---
        name: low
        merge_method: task_arithmetic
        base_model: {base}
        models: [{{model: {chat}, parameters: {{weight: 0.5}}}}, {{model: {sea}, parameters: {{weight: 0.3}}}}]
        dtype: float32
        out_dtype: bfloat16
        ---
        name: high
        merge_method: linear
        models: [{{model: low}}, {{model: {sea}}}]
        parameters: {{weight: 1}}
        dtype: float32
        """,
    "two models on top of each other": """
        merge_method: passthrough
        slices:
          - sources: [{{model: {chat}, layer_range: [0, 3]}}]
          - sources: [{{model: {sea}, layer_range: [1, 4]}}]
        dtype: bfloat16
        """,
    "layers left out": """
        merge_method: slerp
        base_model: {base}
        slices:
          - sources: [{{model: {base}, layer_range: [0, 1]}}, {{model: {chat}, layer_range: [0, 1]}}]
          - sources: [{{model: {base}, layer_range: [2, 4]}}, {{model: {chat}, layer_range: [2, 4]}}]
        parameters: {{t: [{{filter: self_attn, value: [0.1, 0.4]}}, {{value: 0.3}}]}}
        dtype: float32
        out_dtype: bfloat16
        """,
    "blocks that add nothing at first": """
        merge_method: passthrough
        slices:
          - sources: [{{model: {chat}, layer_range: [0, 2]}}]
          - sources:
              - model: {chat}
                layer_range: [1, 2]
                parameters: {{scale: [{{filter: o_proj, value: 0.0}}, {{filter: down_proj, value: 0.0}}, {{value: 1.0}}]}}
          - sources: [{{model: {chat}, layer_range: [2, 4]}}]
        dtype: bfloat16
        """,
    "a merge on top of itself": """
        name: low
        merge_method: ties
        base_model: {base}
        models: [{{model: {chat}, parameters: {{weight: 0.7}}}}, {{model: {sea}, parameters: {{weight: 0.4}}}}]
        dtype: float32
        out_dtype: bfloat16
        ---
        merge_method: passthrough
        slices:
          - sources: [{{model: low, layer_range: [0, 3]}}]
          - sources: [{{model: {code}, layer_range: [2, 3]}}]
          - sources: [{{model: low, layer_range: [1, 4]}}]
        dtype: bfloat16
        """,
}

FILES |= {name: text for name, text in published.FILES.items() if name not in published.RANDOM}

PATHS: dict[str, paths.Path] = {
    "a path": (Hop(0), Hop(1), Hop(1), Hop(3), Hop(2)),
    "a path with scales": (Hop(0), Hop(1, None, 0.8), Hop(3, None, 1.25), Hop(3)),
    "a path through single models": (Hop(0), Hop(2, "sea"), Hop(2, "code"), Hop(3)),
}


def varied(name: str, *, ties: bool, fine: bool = False) -> tuple[Group, ...]:
    """Other values by block and role, in the embedding, the final norm and the head; ``fine``: by tensor.

    ``ties``: entries tie. Which of them sce selects changes the weights of all others, so it
    selects all.
    """
    models, fixed = CASES[name]
    searched = {p.name for p in methods.get(name).parameters if p.searched}

    def at(number: int, **where: Any) -> Group:
        values: dict[str, Any] = {}
        if "weight" in searched:
            values["weight"] = {m: 0.3 + 0.1 * number + 0.35 * i for i, m in enumerate(models)}
        if name == "slerp":
            values["t"] = 0.1 * (number + 1)
        if name == "nearswap":
            values["t"] = 0.01 * (number + 1)
        if name == "sce":
            values["select_topk"] = 1.0 if ties else 0.5 + 0.05 * number
        if name == "passthrough":
            values["scale"] = 0.8 + 0.05 * number if number else None
        if name == "multislerp":
            values["normalize_weights"] = number % 2 == 0
        if name == "nuslerp":
            values["nuslerp_flatten"], values["nuslerp_row_wise"] = number % 3 == 0, number % 3 == 1
        return group(name, models, {**values, **fixed}, **where)

    if fine:
        block = "model.layers.1."
        return (
            at(0, named=[f"{block}input_layernorm.weight", f"{block}self_attn.k_proj.weight"]),
            at(1, layers=(0, 1), roles=["q", "down"]),
            at(2, layers=(1, 3), roles=["v", "gate", "up"]),
            at(3, named=["model.layers.2.self_attn.q_norm.weight"]),
            at(4, named=["model.layers.3.self_attn.q_proj.bias"]),
            at(5, roles=["k", "norm"]),
            at(6, roles=["embed", "o"]),
            at(7),
        )
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


def several_methods() -> tuple[Group, ...]:
    """Methods and models that differ by layer and by role."""
    return (
        group("ties", PAIR, layers=(0, 1), roles=["attn"]),
        group("linear", ALL, layers=(0, 1)),
        group("slerp", ("sea",), {"t": 0.25}, layers=(2, 2)),
        group("ties", PAIR, {"weight": 0.5}, layers=(3, 3)),
        group("passthrough", ("code",), roles=["embed"]),
        group("task_arithmetic", PAIR, {"weight": 0.4}),
    )


def each_tensor(names: Sequence[str]) -> tuple[Group, ...]:
    """Weights of its own for every tensor, as a search over tensors finds them; two methods."""
    return tuple(
        group(
            ("ties" if number % 7 == 3 else "task_arithmetic"),
            PAIR,
            {
                "weight": {
                    m: round(0.1 + 0.8 * math.sin(number + i) ** 2, 4) for i, m in enumerate(PAIR)
                }
            },
            named=[name],
        )
        for number, name in enumerate(names)
    )


FLOAT32 = "Llama-float32"  # models whose entries do not tie
FAMILIES = ("Llama", FLOAT32, "Qwen2", "Qwen3", "Gemma2")
SEVERAL, FINE, EACH = "several methods", "values by tensor", "each tensor"


def names_of(family: str) -> list[str]:
    """The cases tried with a family: everything with the first, some with the others."""
    if family == "Llama":
        known = [name for name in CASES if name in methods.names()]
        return [SEVERAL, FINE, EACH, *known, *FILES, *PATHS]
    if family == FLOAT32:
        return ["ties", "breadcrumbs", "breadcrumbs_ties", "sce"]
    return [SEVERAL, FINE, EACH, "ties", "slerp", "a list of models"]


def recipe_for(name: str, family: Mapping[str, Path], *, ties: bool) -> Recipe:
    refs = {model: ModelRef(str(path)) for model, path in family.items()}
    if name == EACH:
        groups = each_tensor(Checkpoint.open(refs["base"]).names)
    elif name == FINE:
        there = set(
            Checkpoint.open(refs["base"]).names
        )  # norms of queries and biases are of some families
        groups = tuple(
            each
            for each in varied("ties", ties=ties, fine=True)
            if there.issuperset(each.tensors or ())
        )
    else:
        groups = several_methods() if name in (SEVERAL, *PATHS) else varied(name, ties=ties)
    body = Body(groups, path=PATHS.get(name))
    return Recipe(refs["base"], {n: refs[n] for n in ALL}, body, tokenizer="base")


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Recipe, Path]]:
    """Every case: the recipe, and the folder that mergekit made. One process makes them all."""
    folder = tmp_path_factory.mktemp("mergekit")
    cases = {}
    for label in FAMILIES:
        architecture = label.partition("-")[0]
        family = tiny_family(
            folder / label,
            ("base", *ALL),
            architecture=architecture,
            dtype="float32" if label == FLOAT32 else "bfloat16",
            tie_word_embeddings=architecture not in ("Llama", "Qwen2"),
        )
        for name in names_of(label):
            file = folder / f"{len(cases):03d}.yaml"
            if name in FILES:
                file.write_text(textwrap.dedent(FILES[name]).format(**family).lstrip())
                recipe, _ = load_recipe(file)
            else:
                recipe = recipe_for(name, family, ties=label != FLOAT32)
                text = to_mergekit(recipe)
                if architecture == "Qwen2":  # whose class adds tokens to a tokenizer this small
                    text = re.sub(r"^tokenizer:.*\n", "", text, flags=re.MULTILINE)
                file.write_text(text)
            cases[label, name] = (recipe, file.with_suffix(""))
    done = subprocess.run(
        [str(PYTHON), "-c", RUN, str(folder)],
        capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return cases


def test_every_method_that_both_know_is_tried() -> None:
    assert CASES.keys() == PEERS.keys() & set(methods.names())


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in FAMILIES for name in names_of(family)]
)
def test_mergekit_gives_the_same_tensors(
    merges: dict[tuple[str, str], tuple[Recipe, Path]], tmp_path: Path, family: str, name: str
) -> None:
    recipe, folder = merges[family, name]
    ours = load_file(merge(recipe, tmp_path / "merged") / "model.safetensors")
    theirs, models = all_tensors(folder), parents_of(recipe)
    places = Blueprint.of(open_parents(recipe), recipe.body.path).places
    assert ours.keys() <= theirs.keys()
    for key, tensor in ours.items():
        expected = theirs[key]
        assert tensor.dtype == expected.dtype == torch.bfloat16
        equal = torch.isclose(tensor.float(), expected.float(), rtol=2**-7, atol=1e-6)
        group = recipe.group_of(places[key])
        assert group is not None
        at = places[key].tensor
        wrong = ~equal & ~arbitrary(group, {model: own[at] for model, own in models.items()})
        assert wrong.float().mean() <= FLIPS.get(name, 0.0), (
            f"{key}: {tensor[wrong]} {expected[wrong]}"
        )


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    return {key: tensor for file in files for key, tensor in file.items()}


def parents_of(recipe: Recipe) -> dict[str, dict[str, torch.Tensor]]:
    return {name: all_tensors(open_model(recipe.ref(name)).folder) for name in recipe.used}


def arbitrary(group: Group, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Where an entry is as large as one on the other side of a cut: many are among bfloat16 models,
    and which of them mergekit keeps is up to the order in which torch happens to sort them."""
    first = next(iter(tensors.values()))
    found = torch.zeros_like(first, dtype=torch.bool)
    if "density" not in group.values:
        return found
    for model in group.models:
        magnitude = (tensors[model].float() - tensors["base"].float()).abs()
        ordered = magnitude.flatten().sort(descending=True).values
        size, density = len(ordered), group.values["density"][model]  # type: ignore[index]
        kept, top = int(density * size), 0
        if "gamma" in group.values:
            top = min(int(group.values["gamma"][model] * size), size - kept)  # type: ignore[index]
        for cut in (top, top + kept):
            if 0 < cut < size and ordered[cut - 1] == ordered[cut]:
                found |= magnitude == ordered[cut]
    return found
