"""Merges of adapters as adapters: what peft reloads is what we merge, and what evomerge reads again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import merge, merge_adapter, methods
from evomerge.checkpoint import EMBEDDED, Checkpoint, ModelRef
from evomerge.errors import CandidateFailed, Incompatible, InputError
from evomerge.merging.adapter_export import Export
from evomerge.parents import Parents
from evomerge.paths import Hop
from evomerge.recipe import Recipe
from evomerge.rows import RowWeights, count_of
from evomerge.testing.models import tiny_family

PROMPT = torch.tensor([[1, 5, 9, 40, 200]])
SUM = {"method": "task_arithmetic", "weight": {"a": 0.6, "b": 0.7}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("as-adapter")


def make_base(folder: Path, dtype: str = "float32", **shape: Any) -> Path:
    name = "-".join([dtype, *(f"{key}{value}" for key, value in shape.items())])
    home = folder / name
    if not home.exists():
        options = {"tie_word_embeddings": False, "num_hidden_layers": 2, **shape}
        tiny_family(home, ("base",), dtype=dtype, **options)
    return home / "base"


def train(base: Path, out: Path, seed: int, more: int = 0, **options: Any) -> Path:
    """An adapter that peft saved, random as if trained."""
    from peft import LoraConfig, get_peft_model

    model, words = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if more:
        words.add_tokens([f"<|{n}|>" for n in range(more)], special_tokens=True)
        model.resize_token_embeddings(len(words))
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(out)
    if more:
        words.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def pair(folder: Path) -> Callable[[str], dict[str, str]]:
    """Base and two adapters of other targets, ranks and scales, by the base's dtype."""

    @cache
    def made(dtype: str) -> dict[str, str]:
        base = make_base(folder, dtype)
        a = train(base, base.parent / "a", 1)
        patterns = {"target_modules": "all-linear", "rank_pattern": {"v_proj": 3}}
        b = train(base, base.parent / "b", 2, r=6, use_rslora=True, **patterns)
        return {"base": str(base), "a": f"{base}+{a}", "b": f"{base}+{b}"}

    return made


def recipe(models: Mapping[str, str], *groups: dict[str, Any], **more: Any) -> Recipe:
    named = dict(models)
    base = named.pop("base", None)
    plain = {"models": named, "dtype": "float32", "groups": list(groups), **more}
    return Recipe.from_plain({"base": base, **plain} if base else plain)


def reloaded(base: str | Path, adapter: Path, rows: int | None = None) -> Any:
    """What peft makes of a base and an adapter, in float32."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", _no_missing_keys)
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def _no_missing_keys(message: object, *arguments: object, **named: object) -> None:
    assert "missing" not in str(message), message


def assert_same(model: Any, merged: Path, tolerance: float = 1e-4) -> None:
    """The weights and the logits of a model and of a folder."""
    ours = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    expected, found = ours.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(
            model(PROMPT).logits, ours(PROMPT).logits, rtol=tolerance, atol=tolerance
        )


def config(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "adapter_config.json").read_text())
    return found


EXACT: dict[str, list[dict[str, Any]]] = {
    "sum": [SUM],
    "average": [
        {"roles": ["mlp"], "method": "linear", "lines": {"alpha": 0.2, "beta": 0.5}},
        {"method": "linear", "weight": {"a": 3, "b": 1}},
    ],
    "lines": [{**SUM, "lines": {"alpha": 0.3, "beta": 0.5}}],
    "one": [{"method": "passthrough", "models": ["b"]}],
    "with the base": [{"method": "linear", "models": ["base", "a"], "weight": {"base": 1, "a": 3}}],
    "groups": [
        {"layers": [0, 0], **SUM},
        {"roles": ["attn"], "method": "lego", "share": 0.4},
        {"roles": ["mlp"], "method": "robustmerge", "lines": {"alpha": 0.3, "beta": 0.5}},
        {"method": "passthrough", "models": ["base"]},
    ],
}


@pytest.mark.parametrize(
    ("how", "dtype"),
    [*((how, "float32") for how in EXACT), ("groups", "bfloat16"), ("groups", "float16")],
)
def test_peft_reloads_the_merge(pair: Any, tmp_path: Path, how: str, dtype: str) -> None:
    """As the float32 merge to 1e-4, which rounded once is the merged folder; evomerge reads it the same."""
    models, groups = pair(dtype), EXACT[how]
    given = recipe(models, *groups, dtype=dtype)
    said: list[str] = []
    out = merge_adapter(given, tmp_path / "out", say=said.append)
    assert re.fullmatch(r"adapter: \d+ tensors with factors of rank [\d to]+; exact", said[-1])
    exact = merge(recipe(models, *groups), tmp_path / "exact")
    model = reloaded(models["base"], out)
    assert_same(model, exact)
    again = {"base": models["base"], "out": f"{models['base']}+{out}"}
    copied = merge(recipe(again, {"method": "task_arithmetic"}), tmp_path / "again")
    for name, tensor in load_file(exact / "model.safetensors").items():
        ours = load_file(copied / "model.safetensors")[name]
        torch.testing.assert_close(ours, tensor, rtol=1e-5, atol=1e-6)
    rounded = load_file(merge(given, tmp_path / "rounded") / "model.safetensors")
    unit = torch.finfo(getattr(torch, dtype)).eps
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(rounded[name].float(), tensor, rtol=unit, atol=1e-6)


def test_what_the_folder_holds(pair: Any, tmp_path: Path) -> None:
    """Ranks add up, tensor by tensor; alphas are ranks, so that the scale is 1 whoever reads them."""
    models = pair("float32")
    out = merge_adapter(recipe(models, SUM), tmp_path / "out")
    found = config(out)
    assert (found["r"], found["lora_alpha"], found["use_rslora"], found["use_dora"]) == (
        *(10, 10),
        *(False, False),
    )
    rest = dict.fromkeys(["gate_proj", "k_proj", "o_proj", "up_proj"], 6)
    assert found["rank_pattern"] == found["alpha_pattern"] == {**rest, "v_proj": 3}
    assert found["target_modules"] == sorted(["q_proj", "down_proj", "v_proj", *rest])
    assert found["base_model_name_or_path"] == models["base"]
    assert sorted(path.name for path in out.iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors", "evomerge.yaml"),
    ]
    assert Recipe.load(out / "evomerge.yaml").digest == recipe(models, SUM).portable().digest
    weights = load_file(out / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    again = merge_adapter(recipe(models, SUM), tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (out / name).read_bytes() == (again / name).read_bytes()


def test_single_blocks_and_ranks_are_named(folder: Path, tmp_path: Path) -> None:
    base = make_base(folder)
    a = train(base, tmp_path / "a", 1, layers_to_transform=[1], rank_pattern={"q_proj": 2})
    b = train(base, tmp_path / "b", 2, target_modules=["q_proj"], layers_to_transform=[0])
    models = {"base": str(base), "a": f"{base}+{a}", "b": f"{base}+{b}"}
    out = merge_adapter(recipe(models, SUM), tmp_path / "out")
    found = config(out)
    assert found["target_modules"] == ["model.layers.1.mlp.down_proj", "q_proj"]
    assert found["rank_pattern"] == {r"model\.layers\.1\.self_attn\.q_proj": 2}
    assert_same(reloaded(base, out), merge(recipe(models, SUM), tmp_path / "merged"))


@pytest.mark.parametrize("by", ["rows", "columns"])
def test_row_weights_are_exact(pair: Any, tmp_path: Path, by: str) -> None:
    models = pair("float32")
    plain = recipe(models, {**SUM, "lines": {"alpha": 0.3, "beta": 0.5}})
    draw = np.random.default_rng(0)
    vectors: dict[str, dict[str, Any]] = {}
    for name, tensor in load_file(Path(models["base"]) / "model.safetensors").items():
        count = count_of(tensor.shape, by)
        vectors[name] = {m: draw.normal(1, 0.5, count).astype(np.float32) for m in "ab"}
    given = replace(plain, body=replace(plain.body, rows=RowWeights.of(vectors, by)))
    out = merge_adapter(given, tmp_path / "out")
    assert config(out)["r"] == 10
    assert_same(reloaded(models["base"], out), merge(given, tmp_path / "merged"))


@pytest.mark.parametrize(
    ("method", "exact"),
    [
        *(("karcher", False), ("lm_cocktail", True), ("mod_mask", False), ("model_stock", False)),
        *(("multislerp", True), ("nuslerp", True), ("slerp", False), ("twin", False)),
        *(("varm", True), ("widen", True)),
    ],
)
def test_other_methods_are_exact_or_want_a_rank(
    folder: Path, tmp_path: Path, method: str, exact: bool
) -> None:
    """What comes out as a sum of the models is exact, whatever its coefficients are made of."""
    base = make_base(folder, num_hidden_layers=1)
    for seed, name in enumerate("ab"):
        if not (base.parent / name).exists():
            train(base, base.parent / name, seed)
    models = {"base": str(base), **{name: f"{base}+{base.parent / name}" for name in "ab"}}
    team = ["a", "b"][: methods.get(method).team_size(2)]
    given, rank = recipe(models, {"method": method, "models": team}), None
    if not exact:
        with pytest.raises(InputError, match="--as-adapter: "):
            merge_adapter(given, tmp_path / "out")
        rank = 48
    out = merge_adapter(given, tmp_path / "out", rank=rank)
    again = {"base": models["base"], "out": f"{base}+{out}"}
    copied = merge(recipe(again, {"method": "task_arithmetic"}), tmp_path / "again")
    merged = load_file(merge(given, tmp_path / "merged") / "model.safetensors")
    for name, tensor in load_file(copied / "model.safetensors").items():
        torch.testing.assert_close(tensor, merged[name], rtol=0, atol=1e-5)


DORA = {"use_dora": True, "target_modules": "all-linear"}


def dora_pair(folder: Path) -> dict[str, str]:
    base = make_base(folder)
    home = base.parent / "dora"
    dora = home if home.exists() else train(base, home, 3, **DORA)
    return {"base": str(base), "a": f"{base}+{base.parent / 'a'}", "b": f"{base}+{dora}"}


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ([{"method": "ties"}], "ties is no sum of them"),
        ([{"method": "della"}], "della is no sum of them"),
        ([{"method": "compeft"}], "compeft is no sum of them"),
        ([{"method": "task_arithmetic", "roles": ["mlp"]}, {"method": "dare_ties"}], "dare_ties is no sum"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_sum_wants_a_rank(
    pair: Any, tmp_path: Path, groups: list[dict[str, Any]], why: str
) -> None:
    with pytest.raises(InputError, match=rf"{why}.*Give --rank R.*\(R = \d+ is exact here\)"):
        merge_adapter(recipe(pair("float32"), *groups), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "lego"])
@pytest.mark.parametrize("rank", [1, 5, 48])
def test_at_a_rank_the_error_is_told(pair: Any, tmp_path: Path, method: str, rank: int) -> None:
    models, said = pair("bfloat16"), list[str]()
    given = recipe(models, {"method": method}, dtype="bfloat16")
    out = merge_adapter(given, tmp_path / "out", rank=rank, say=said.append)
    merged = load_file(
        merge(recipe(models, {"method": method}), tmp_path / "m") / "model.safetensors"
    )
    plain = load_file(Path(models["base"]) / "model.safetensors")
    found = reloaded(models["base"], out).state_dict()
    squares: dict[str, tuple[float, float]] = {}
    for name, tensor in merged.items():
        change, lost = tensor.double() - plain[name], tensor.double() - found[name]
        if change.any():
            least = torch.linalg.svdvals(change)[rank:].square().sum()
            assert float(lost.square().sum()) == pytest.approx(float(least), rel=1e-3, abs=1e-9)
        squares[name] = float(change.square().sum()), float(lost.square().sum())
    change, lost = (sum(each) for each in zip(*squares.values(), strict=True))
    shares = {name: (b / a) ** 0.5 for name, (a, b) in squares.items() if a}
    numbers = re.fullmatch(
        r"adapter: 14 tensors with factors of rank [\d to]+; they lack ([\d.]+)% \(Frobenius; ([\d.]+)% at worst, in "
        r"(\S+)\) of what the merge changes",
        said[-1],
    )
    assert numbers, said
    assert float(numbers[1]) == pytest.approx(100 * (lost / change) ** 0.5, abs=0.006)
    assert float(numbers[2]) == pytest.approx(100 * max(shares.values()), abs=0.006)
    assert shares[numbers[3]] == pytest.approx(max(shares.values()), abs=1e-4)
    assert config(out)["r"] <= rank
    if rank == 48:
        assert_same(reloaded(models["base"], out), tmp_path / "m")


def test_dora_wants_a_rank(folder: Path, pair: Any, tmp_path: Path) -> None:
    pair("float32")
    models = dora_pair(folder)
    with pytest.raises(InputError, match=r"DoRA rescales what the base has\. Give --rank R"):
        merge_adapter(recipe(models, SUM), tmp_path / "out")
    out = merge_adapter(recipe(models, SUM), tmp_path / "out", rank=48)
    assert_same(reloaded(models["base"], out), merge(recipe(models, SUM), tmp_path / "m"))


HELD = {
    "factors of ends": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    "norms": {"modules_to_save": ["model.norm", "input_layernorm"]},
    "whole linear": {"modules_to_save": ["mlp.gate_proj"]},
    "whole ends": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "rows": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [9, 2]}},
    "more tokens": {"more": 2, "modules_to_save": ["embed_tokens", "lm_head"]},
    "more tokens, tied": {"more": 2, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "whole end, tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "rows, tied": {"trainable_token_indices": [3, 5]},
    "untied": {"modules_to_save": ["lm_head"]},
    "untied embedding": {"modules_to_save": ["embed_tokens"]},
    "norms, tied": {"modules_to_save": ["model.norm"]},
    "rows and factors": {"trainable_token_indices": [3, 5], "a": {"target_modules": ["embed_tokens", "v_proj"]}},
    "only rows": {"trainable_token_indices": [3, 5], "r": 1, "target_modules": ["o_proj"], "zero": True},
}  # fmt: skip
TIED = (
    "norms, tied",
    "untied embedding",
    "more tokens, tied",
    "whole end, tied",
    "rows, tied",
    "untied",
    "only rows",
)


@pytest.mark.parametrize(
    ("how", "rank"), [*((how, None) for how in HELD), ("factors of ends", 32), ("rows", 32)]
)
def test_what_is_not_in_factors_goes_where_peft_holds_it(
    folder: Path, pair: Any, tmp_path: Path, how: str, rank: int | None
) -> None:
    options = dict(HELD[how])
    zero, of_a = options.pop("zero", False), options.pop("a", {})
    base = make_base(folder, tie_word_embeddings=how in TIED)
    a = train(base, tmp_path / "a", 1, **of_a)
    b = train(base, tmp_path / "b", 2, **options)
    if zero:
        file = b / "adapter_model.safetensors"
        save_file({k: t * (".lora_B" not in k) for k, t in load_file(file).items()}, file)
        a = b
    models = {"base": str(base), "a": f"{base}+{a}", "b": f"{base}+{b}"}
    more = options.get("more", 0)
    given = recipe(models, SUM, tokenizer="b" if more else "base")
    out = merge_adapter(given, tmp_path / "out", rank=rank)
    merged = merge(given, tmp_path / "merged")
    rows = 258 + more if more else None
    assert (out / "tokenizer.json").is_file() == bool(more)
    assert_same(reloaded(base, out, rows), merged)
    again = {"base": str(base), "out": f"{base}+{out}"}
    plain = recipe(again, {"method": "passthrough", "models": ["out"]}, tokenizer="out")
    copied = load_file(merge(plain, tmp_path / "again") / "model.safetensors")
    for name, tensor in load_file(merged / "model.safetensors").items():
        torch.testing.assert_close(copied[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert ("ensure_weight_tying" in config(out)) == ("ensure_weight_tying" in HELD[how])
    if how == "rows":
        assert config(out)["trainable_token_indices"] == {
            "lm_head": [2, 9],
            "model.embed_tokens": [3, 5],
        }
    if how == "norms":
        assert config(out)["modules_to_save"] == [
            *("model.layers.0.input_layernorm", "model.layers.1.input_layernorm", "model.norm"),
        ]


def test_a_bias_beside_a_whole_matrix_is_brought(tmp_path: Path) -> None:
    base = tiny_family(tmp_path, ("base",), architecture="Qwen2", num_hidden_layers=1)["base"]
    b = train(base, tmp_path / "b", 2, modules_to_save=["q_proj"], target_modules=["v_proj"])
    models = {"base": str(base), "b": f"{base}+{b}"}
    given = recipe(models, {"method": "task_arithmetic", "weight": 0.5})
    out = merge_adapter(given, tmp_path / "out")
    keys = load_file(out / "adapter_model.safetensors")
    assert {key for key in keys if "q_proj" in key} == {
        f"base_model.model.model.layers.0.self_attn.q_proj.{leaf}" for leaf in ("weight", "bias")
    }
    assert_same(reloaded(base, out), merge(given, tmp_path / "merged"))


def test_the_base_alone_is_an_adapter_that_adds_nothing(pair: Any, tmp_path: Path) -> None:
    models = pair("float32")
    given = recipe(models, {"method": "passthrough", "models": ["base"]})
    out = merge_adapter(given, tmp_path / "out")
    assert_same(reloaded(models["base"], out), Path(models["base"]), 0.0)


def test_a_recipe_without_base_has_that_of_its_adapters(pair: Any, tmp_path: Path) -> None:
    models = pair("float32")
    base = models["base"]
    adapters = {name: models[name] for name in "ab"}
    given = recipe(adapters, {"method": "linear"}, tokenizer="a")
    out = merge_adapter(given, tmp_path / "out")
    assert_same(reloaded(base, out), merge(given, tmp_path / "merged"))


def test_a_base_that_is_an_adapter_itself(pair: Any, tmp_path: Path) -> None:
    """Deltas are taken from it; what it adds stays."""
    models = pair("float32")
    base = models["base"]
    given = recipe(
        {"base": models["a"], "b": models["b"]},
        {"method": "task_arithmetic", "weight": 0.4, "lines": {"alpha": 0.2, "beta": 0.6}},
    )
    out = merge_adapter(given, tmp_path / "out")
    assert_same(reloaded(base, out), merge(given, tmp_path / "merged"))
    with pytest.raises(Incompatible, match="name the model without it as base"):
        merge_adapter(
            recipe({"base": models["a"], "b": models["b"]}, {"method": "lego"}), tmp_path / "no"
        )


def test_a_copy_of_the_base_is_the_base(pair: Any, tmp_path: Path) -> None:
    models = pair("float32")
    copy = shutil.copytree(models["base"], tmp_path / "copy")
    adapter = models["b"].partition("+")[2]
    given = recipe({**models, "b": f"{copy}+{adapter}"}, SUM)
    out = merge_adapter(given, tmp_path / "out")
    assert_same(reloaded(models["base"], out), merge(recipe(models, SUM), tmp_path / "merged"))
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Incompatible, match=r"b = .* is no adapter of .*base; expected that all"):
        merge_adapter(given, tmp_path / "other")
    with pytest.raises(
        Incompatible,
        match=r"groups\[0\]: lego merges the factors of adapters, and b = .* is one of another",
    ):
        merge(recipe({**models, "b": f"{copy}+{adapter}"}, {"method": "lego"}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_no_merge_of_adapters_is_refused(pair: Any, folder: Path, tmp_path: Path) -> None:
    models, out = pair("float32"), tmp_path / "out"
    base = models["base"]
    with pytest.raises(
        InputError, match=r"no model of the recipe is an adapter: .*expected MODEL\+ADAPTER"
    ):
        merge_adapter(recipe({"base": base, "a": base}, {"method": "task_arithmetic"}), out)
    recipe(models, SUM).portable().save(tmp_path / "inner.yaml")
    inner = {**models, "b": str(tmp_path / "inner.yaml")}
    with pytest.raises(InputError, match=r"b = .*inner\.yaml is a recipe, and so no adapter"):
        merge_adapter(recipe(inner, SUM), out)
    with pytest.raises(Incompatible, match=r"coefficients sum to 1\.3, not 1.*task_arithmetic"):
        merge_adapter(recipe(models, {**SUM, "method": "linear", "normalize": False}), out)
    with pytest.raises(Incompatible, match=r"coefficients sum to 0\.9, not 1"):
        merge_adapter(
            recipe(models, {"method": "passthrough", "models": ["a"], "scale": 0.9}), out, rank=4
        )
    moved = recipe(models, SUM)
    moved = replace(moved, body=replace(moved.body, path=(Hop(1), Hop(0))))
    with pytest.raises(Incompatible, match="has a path, and an adapter leaves the layers"):
        merge_adapter(moved, out)
    with pytest.raises(InputError, match="--rank: expected at least 1, found 0"):
        merge_adapter(recipe(models, SUM), out, rank=0)
    with pytest.raises(InputError, match=r"is a model of the recipe"):
        merge_adapter(recipe(models, SUM), Path(models["a"].partition("+")[2]), force=True)
    assert not out.exists()


def test_an_adapter_is_replaced_by_force_alone(pair: Any, tmp_path: Path) -> None:
    given = recipe(pair("float32"), SUM)
    out = merge_adapter(given, tmp_path / "out")
    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    with pytest.raises(InputError, match="exists already"):
        merge_adapter(given, out)
    assert (out / "adapter_model.safetensors").stat().st_mtime_ns == before
    merge_adapter(given, out, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_broken_adapter_fails_and_leaves_nothing(pair: Any, tmp_path: Path) -> None:
    models = pair("float32")
    broken = shutil.copytree(models["a"].partition("+")[2], tmp_path / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = torch.nan
    save_file(weights, broken / "adapter_model.safetensors")
    given = {**models, "a": f"{models['base']}+{broken}"}
    for method, rank in (
        ("ties", 2),
        ("task_arithmetic", None),
        ("task_arithmetic", 2),
        ("lego", None),
    ):
        with pytest.raises(CandidateFailed, match="holds NaN"):
            merge_adapter(recipe(given, {"method": method}), tmp_path / "out", rank=rank)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize("dora", [False, True])
def test_weights_that_lie_the_other_way(tmp_path: Path, dora: bool) -> None:
    """Of GPT-2, [inputs, outputs]; its output projections are square, so that no shape tells."""
    from evomerge.testing.zoo import tiny_members

    base = tiny_members(tmp_path, "gpt2", "GPT2LMHeadModel", ("base",))["base"]
    targets = {"target_modules": ["c_attn", "attn.c_proj"], "fan_in_fan_out": True}
    a = train(base, tmp_path / "a", 1, use_dora=dora, **targets)
    models = {"base": str(base), "a": f"{base}+{a}"}
    merged = merge(recipe(models, {"method": "passthrough", "models": ["a"]}), tmp_path / "merged")
    assert_same(reloaded(base, a), merged)
    given = recipe(models, {"method": "task_arithmetic", "weight": 0.5})
    out = merge_adapter(given, tmp_path / "out", rank=32 if dora else None)
    assert_same(reloaded(base, out), merge(given, tmp_path / "half"))


def test_experts_that_are_packed_in_memory_are_refused_by_name(tmp_path: Path) -> None:
    """All else of such a model is merged as of others."""
    from evomerge.testing.zoo import tiny_members

    base = tiny_members(tmp_path, "qwen3_moe", "Qwen3MoeForCausalLM", ("base",))["base"]
    a = train(base, tmp_path / "a", 1, target_modules=["q_proj"])
    models = {"base": str(base), "a": f"{base}+{a}"}
    given = recipe(models, {"method": "task_arithmetic", "weight": 0.5})
    out = merge_adapter(given, tmp_path / "out")
    assert_same(reloaded(base, out), merge(given, tmp_path / "merged"))
    expert = "model.layers.0.mlp.experts.1.up_proj"
    sizes = load_file(base / "model.safetensors")[f"{expert}.weight"].shape
    file = a / "adapter_model.safetensors"
    more = {"A": torch.ones(4, sizes[1]), "B": torch.ones(sizes[0], 4)}
    named = {f"base_model.model.{expert}.lora_{part}.weight": each for part, each in more.items()}
    save_file({**load_file(file), **named}, file)
    with pytest.raises(Incompatible, match=rf"changes {expert}\.weight, which transformers holds"):
        merge_adapter(given, tmp_path / "other")


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_signs_are_eight_times_smaller_and_tell_what_they_lack(
    pair: Any, tmp_path: Path, density: float
) -> None:
    """Evomerge reads them as any adapter, and makes them one for peft."""
    models, said = pair("bfloat16"), list[str]()
    whole = merge_adapter(recipe(models, SUM), tmp_path / "whole")
    out = merge_adapter(recipe(models, SUM), tmp_path / "out", density=density, say=said.append)
    assert config(out) == config(whole)
    assert sorted(path.name for path in out.iterdir()) == [
        *("adapter_config.json", "adapter_model.ternary.safetensors", "evomerge.yaml"),
    ]
    weights = load_file(whole / "adapter_model.safetensors")
    save_file({k: t.bfloat16() for k, t in weights.items()}, tmp_path / "bf16.safetensors")
    plain = (tmp_path / "bf16.safetensors").stat().st_size
    small = (out / "adapter_model.ternary.safetensors").stat().st_size
    assert 8 * small <= plain
    numbers = re.fullmatch(
        r"compressed: ([\d.]+) times smaller than in bfloat16; signs lack ([\d.]+)% \(Frobenius; ([\d.]+)% at worst, "
        r"in (\S+)\) of what the factors add",
        said[-1],
    )
    assert numbers, said
    assert float(numbers[1]) == pytest.approx(plain / small, rel=0.02)

    ours = {"base": models["base"], "out": f"{models['base']}+{out}"}
    again = recipe(ours, {"method": "task_arithmetic"})
    merged = merge(again, tmp_path / "merged")
    found, base = (
        load_file(merged / "model.safetensors"),
        load_file(Path(models["base"]) / "model.safetensors"),
    )
    change = lost = 0.0
    for key in weights:
        if key.endswith("lora_A.weight"):
            added = weights[key.replace("lora_A", "lora_B")] @ weights[key]
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            kept = found[name] - base[name].float()
            assert kept.any() and not torch.allclose(kept, added, atol=1e-3)
            # no other size of these signs would come closer
            assert float((kept * (added - kept)).sum()) == pytest.approx(0, abs=1e-3)
            change += float(added.square().sum())
            lost += float((added - kept).square().sum())
    assert float(numbers[2]) == pytest.approx(100 * (lost / change) ** 0.5, abs=0.1)
    plain_again = merge_adapter(again, tmp_path / "again")
    assert_same(reloaded(models["base"], plain_again), merged)


def test_signs_stand_for_factors_alone(pair: Any, folder: Path, tmp_path: Path) -> None:
    models, out = pair("float32"), tmp_path / "out"
    for density in (0.0, 1.5):
        with pytest.raises(InputError, match="density: expected above 0 and at most 1"):
            merge_adapter(recipe(models, SUM), out, density=density)
    with pytest.raises(
        InputError, match=r"with density 1 signs are [\d.]+ times smaller.*lower density"
    ):
        merge_adapter(recipe(models, SUM), out, density=1.0)
    b = train(Path(models["base"]), tmp_path / "b", 2, modules_to_save=["model.norm"])
    with pytest.raises(
        InputError, match=r"brings model\.norm, whole or in rows; write it without --compress"
    ):
        merge_adapter(recipe({**models, "b": f"{models['base']}+{b}"}, SUM), out, density=0.2)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("org/model", {"base_model_name_or_path": "org/model"}),
        ("org/model@v2", {"base_model_name_or_path": "org/model", "revision": "v2"}),
        ("embedded:base", {"base_model_name_or_path": str(EMBEDDED / "base")}),
    ],
)
def test_the_base_is_named_as_transformers_finds_it(text: str, named: dict[str, str]) -> None:
    opened = Checkpoint.open(ModelRef("embedded:base"))
    given = Recipe.from_plain({"models": {"a": text}, "groups": [{"method": "linear"}]})
    export = Export(given, Parents({"a": opened}), opened)
    assert export.named(ModelRef(text)) == named
