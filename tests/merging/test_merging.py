from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import merge, merge_into, merge_tensors, methods
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import CheckpointError, Incompatible, InputError
from evomerge.merging.blueprint import Blueprint
from evomerge.parents import Parents
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.testing.models import tiny_family

SOURCES = ("chat", "sea")
DTYPES = ("bfloat16", "float16", "float32")
ARCHITECTURES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def recipe_of(family: dict[str, Path], *groups: Group, **options: Any) -> Recipe:
    refs = {name: ModelRef(str(folder)) for name, folder in family.items()}
    base = refs.pop("base")
    return Recipe(base, refs, Body(groups), **{"dtype": "float32", **options})


def with_method(name: str, **values: Any) -> Group:
    count = methods.get(name).max_models or 2
    given = {"weight": {"chat": 0.7, "sea": 0.6}, "density": {"chat": 0.4, "sea": 0.8}, **values}
    known = {p.name for p in methods.get(name).parameters if p.per_model}
    known |= values.keys()
    models = SOURCES[:count]
    return group(name, models, {key: value for key, value in given.items() if key in known})


def on_disk(recipe: Recipe, out: Path, **options: Any) -> dict[str, Tensor]:
    merge(recipe, out, **options)
    return {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}


def in_memory(recipe: Recipe, dtype: str) -> dict[str, Tensor]:
    """Merged into a live model that held something else before."""
    start = Checkpoint.open(recipe.ref(recipe.used[0])).folder
    model = AutoModelForCausalLM.from_pretrained(start, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    merge_into(recipe, model)
    return dict(model.named_parameters())


def same_bytes(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        ours, theirs = (
            t.detach().contiguous().view(torch.uint8) for t in (left[name], right[name])
        )
        assert torch.equal(ours, theirs), name


# -- one recipe, one set of bytes ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["linear", "ties", "dare_ties", "widen", "karcher"])
def test_a_recipe_gives_the_same_bytes_in_memory_and_on_disk(
    family: dict[str, Path], tmp_path: Path, name: str, dtype: str
) -> None:
    recipe = recipe_of(family, with_method(name), dtype=dtype, seed=5)
    disk = on_disk(recipe, tmp_path / "whole")
    same_bytes(disk, in_memory(recipe, dtype))
    same_bytes(disk, on_disk(recipe, tmp_path / "cut", shard_bytes=20_000))
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 3
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype="auto")
    same_bytes(disk, dict(loaded.named_parameters()))


def test_every_tensor_is_merged_by_its_own_group(family: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(
        family,
        group("ties", SOURCES, {"weight": 0.9}, layers=(0, 1), roles=["attn"]),
        group("slerp", ("sea",), {"t": 0.3}, layers=(0, 2)),
        group("task_arithmetic", ("sea", "chat"), {"weight": {"sea": 0.2, "chat": 1.1}}, roles=["other"]),
        group("dare_ties", SOURCES, {"density": 0.5}),
        seed=9,
    )  # fmt: skip
    merged = on_disk(recipe, tmp_path / "out")
    places = Blueprint.of(Parents.open(recipe)).places
    loaded = {name: load_file(folder / "model.safetensors") for name, folder in family.items()}
    seen = set()
    for name, tensor in merged.items():
        place = places[name]
        rule = recipe.group_of(place)
        assert rule is not None
        seen.add(rule.method)
        expected = merge_tensors(
            rule.method,
            {model: loaded[model][name] for model in rule.models},
            base=loaded["base"][name],
            parameters=rule.values,
            seed=9,
            name=name,
            role=place.role,
        )
        assert torch.equal(tensor, expected), name
    assert seen == {"ties", "slerp", "task_arithmetic", "dare_ties"}


def test_the_seed_and_nothing_else_draws_the_masks(family: dict[str, Path], tmp_path: Path) -> None:
    def merged(seed: int, out: str) -> dict[str, Tensor]:
        torch.manual_seed(len(out))
        return on_disk(recipe_of(family, with_method("dare_linear"), seed=seed), tmp_path / out)

    first = merged(1, "a")
    same_bytes(first, merged(1, "again"))
    other = merged(2, "other")
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_parent_passed_through_keeps_its_bytes(tmp_path: Path, dtype: str) -> None:
    family = tiny_family(tmp_path, dtype=dtype)
    for name in family:
        recipe = recipe_of(family, group("passthrough", (name,)), dtype=dtype)
        merged = on_disk(recipe, tmp_path / f"{name}-again")
        same_bytes(merged, load_file(family[name] / "model.safetensors"))


def test_parents_of_other_dtypes_are_merged_in_float32(tmp_path: Path) -> None:
    exact = tiny_family(tmp_path / "float32")
    mixed = {**exact, "sea": tiny_family(tmp_path / "half", dtype="bfloat16")["sea"]}
    merged = on_disk(recipe_of(mixed, with_method("linear")), tmp_path / "out")
    chat, sea = (load_file(mixed[name] / "model.safetensors") for name in SOURCES)
    for name in merged:
        expected = (0.7 * chat[name].double() + 0.6 * sea[name].double()) / 1.3
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-6, atol=1e-7)


# -- architectures -------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_architecture_is_merged_and_loads(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    family = tiny_family(tmp_path, architecture=architecture, tie_word_embeddings=tied)
    recipe = recipe_of(family, with_method("ties"), dtype="bfloat16", tokenizer="sea")
    same_bytes(on_disk(recipe, tmp_path / "out"), in_memory(recipe, "bfloat16"))
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="auto", output_loading_info=True
    )
    assert not any(info.values()), info
    assert model.dtype == torch.bfloat16
    embed, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (embed.data_ptr() == head.data_ptr()) == tied
    assert ("lm_head.weight" in Blueprint.of(Parents.open(recipe)).names) == (not tied)
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.isfinite().all()


def test_a_head_that_a_tied_config_forgets_is_kept(tmp_path: Path) -> None:
    """The file holds a head of its own, as transformers 5 loads it; so do merges, whose config says so."""
    family = tiny_family(tmp_path, tie_word_embeddings=False)
    for folder in family.values():
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    recipe = recipe_of(family, with_method("task_arithmetic"), dtype="float32")
    merged = on_disk(recipe, tmp_path / "out")
    heads = {n: load_file(f / "model.safetensors")["lm_head.weight"] for n, f in family.items()}
    base, parts = heads.pop("base"), recipe.groups[0].values["weight"]
    expected = base + sum(parts[name] * (head - base) for name, head in heads.items())
    assert torch.allclose(merged["lm_head.weight"], expected, atol=1e-6)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, merged["lm_head.weight"])
    assert not model.config.tie_word_embeddings


def test_a_head_that_is_missing_is_refused(tmp_path: Path) -> None:
    """A config that ties nothing, and no head in the file: transformers would make one up."""
    family = tiny_family(tmp_path, tie_word_embeddings=True)
    for folder in family.values():
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"base: its files lack lm_head\.weight"):
        merge(recipe_of(family, with_method("linear"), dtype="float32"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["model.rotary_emb.inv_freq", "model.layers.2.self_attn.rotary_emb.inv_freq"],
)
def test_rotary_tables_are_left_out_wherever_they_stand(tmp_path: Path, name: str) -> None:
    family = tiny_family(tmp_path)
    plain = on_disk(recipe_of(family, with_method("linear"), dtype="float32"), tmp_path / "plain")
    for folder in family.values():
        weights = load_file(folder / "model.safetensors")
        save_file({**weights, name: torch.ones(8)}, folder / "model.safetensors")
    stored = on_disk(recipe_of(family, with_method("linear"), dtype="float32"), tmp_path / "out")
    same_bytes(stored, plain)


# -- what lies beside the weights ----------------------------------------------------------------


@pytest.fixture
def marked(family: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of the family whose companions and configs can be told apart."""
    copies = {n: Path(shutil.copytree(f, tmp_path / "family" / n)) for n, f in family.items()}
    for number, (name, folder) in enumerate(copies.items()):
        (folder / "chat_template.jinja").write_text(f"{name}: {{{{ messages[0]['content'] }}}}")
        config = json.loads((folder / "config.json").read_text())
        config |= {"eos_token_id": number, "max_position_embeddings": 256 + number}
        (folder / "config.json").write_text(json.dumps(config))
        generation = {"eos_token_id": number, "max_new_tokens": 10 + number}
        (folder / "generation_config.json").write_text(json.dumps(generation))
        (folder / "README.md").write_text("not part of a model")
    return copies


@pytest.mark.parametrize("donor", ["base", "chat", "sea"])
def test_tokenizer_template_and_generation_come_from_the_donor(
    marked: dict[str, Path], tmp_path: Path, donor: str
) -> None:
    out = tmp_path / "out"
    recipe = recipe_of(marked, with_method("task_arithmetic"), dtype="bfloat16", tokenizer=donor)
    merge(recipe, out)
    number = list(marked).index(donor)
    assert (out / "tokenizer.json").read_bytes() == (marked[donor] / "tokenizer.json").read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(out)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == f"{donor}: hi"
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.max_new_tokens == 10 + number
    config = json.loads((out / "config.json").read_text())
    # token ids belong to the tokenizer, everything else to the weights, which start from the base
    assert (config["eos_token_id"], config["max_position_embeddings"]) == (number, 256)
    assert config["dtype"] == "bfloat16" and "torch_dtype" not in config
    assert not (out / "README.md").exists()


def test_the_folder_says_how_it_was_made(marked: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(marked, with_method("ties"))
    first = on_disk(recipe, tmp_path / "out")
    kept = Recipe.load(tmp_path / "out" / "evomerge.yaml")
    same_bytes(first, on_disk(kept, tmp_path / "again"))


def test_an_adapter_is_a_source_like_any_other(family: dict[str, Path], tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(family["base"]),
        LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "lora")
    plain = AutoModelForCausalLM.from_pretrained(family["base"])
    PeftModel.from_pretrained(plain, tmp_path / "lora").merge_and_unload().save_pretrained(
        tmp_path / "expanded"
    )
    adapted = {**family, "sea": Path(f"{family['base']}+{tmp_path / 'lora'}")}
    expanded = {**family, "sea": tmp_path / "expanded"}
    ours, theirs = (
        on_disk(recipe_of(members, with_method("task_arithmetic")), tmp_path / f"out-{number}")
        for number, members in enumerate((adapted, expanded))
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


# -- refusals ------------------------------------------------------------------------------------


def test_every_difference_between_models_is_named(family: dict[str, Path], tmp_path: Path) -> None:
    deep = tiny_family(tmp_path, ("deep",), num_hidden_layers=5)["deep"]
    qwen = tiny_family(tmp_path, ("qwen",), architecture="Qwen2")["qwen"]
    recipe = recipe_of({"base": family["base"], "a": deep, "b": qwen}, group("linear", ("a", "b")))
    recipe = Recipe(recipe.base, recipe.models, Body((group("task_arithmetic", ("a", "b")),)))
    with pytest.raises(Incompatible) as caught:
        Parents.open(recipe)
    assert "depths differ: 5 and 4 layers" in str(caught.value)
    assert "architectures differ: Qwen2ForCausalLM and LlamaForCausalLM" in str(caught.value)


def test_models_that_no_group_reads_have_a_say_and_must_be_there(
    family: dict[str, Path], tmp_path: Path
) -> None:
    members = {**family, "base": tmp_path / "absent"}
    recipe = recipe_of(members, with_method("linear"), tokenizer="chat")
    with pytest.raises(InputError, match="absent: no such folder"):
        on_disk(recipe, tmp_path / "out")
    assert on_disk(replace(recipe, base=None), tmp_path / "out")


def test_a_model_with_more_parameters_is_not_merged_into(
    family: dict[str, Path], tmp_path: Path
) -> None:
    """A head that no merge writes would stay what it was."""
    untied = tiny_family(tmp_path / "untied", ("base",), tie_word_embeddings=False)["base"]
    model = AutoModelForCausalLM.from_pretrained(untied)
    with pytest.raises(Incompatible, match=r"it has lm_head\.weight, the merged one has not"):
        merge_into(recipe_of(family, with_method("linear")), model)


def test_padding_of_a_vocabulary_may_be_used_by_one_model_only(
    family: dict[str, Path], tmp_path: Path
) -> None:
    """A parent that gave a spare row to a new token moves no token of the others."""
    folder = Path(shutil.copytree(family["sea"], tmp_path / "sea"))
    drop_token(folder / "tokenizer.json", lambda row: row == 257)
    assert on_disk(recipe_of({**family, "sea": folder}, with_method("linear")), tmp_path / "out")


def drop_token(path: Path, which: Callable[[int], bool]) -> None:
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {token: row for token, row in vocab.items() if not which(row)}
    path.write_text(json.dumps(content))
