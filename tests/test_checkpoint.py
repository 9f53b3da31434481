from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge import durable
from evomerge.checkpoint import (
    INDEX,
    Checkpoint,
    ModelRef,
    WeightFiles,
    beside,
    locate,
    read_header,
    shards,
    write_weights,
)
from evomerge.errors import CheckpointError, InputError, RunError
from evomerge.merging import Materializer
from evomerge.parents import Parents
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.models import tiny_family


def opened(path: Path | str) -> Checkpoint:
    return Checkpoint.open(ModelRef(str(path)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", ".metadata", "model.SAFETENSORS"])
def test_no_shard_is_called_otherwise(family: dict[str, Path], tmp_path: Path, name: str) -> None:
    """transformers chooses by their names how to read them: these as pickles."""
    folder = tmp_path / "model"
    shutil.copytree(family["base"], folder)
    (folder / "model.safetensors").rename(folder / name)
    tensors = dict.fromkeys(load_file(folder / name), name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": tensors}))
    with pytest.raises(CheckpointError, match=r"expected a name that ends in \.safetensors"):
        opened(folder)


def test_headers_tell_everything_but_the_values(family: dict[str, Path]) -> None:
    model = opened(family["chat"])
    weights = load_file(family["chat"] / "model.safetensors")
    assert set(model.names) == set(weights)
    assert (model.layers, model.dtype) == (4, "float32")
    assert model.parameters == sum(tensor.numel() for tensor in weights.values())
    for name in model.names:
        assert model.entry(name).shape == tuple(weights[name].shape)
        assert torch.equal(model.tensor(name), weights[name])
    model.check_finite()


def test_the_dtype_is_that_of_most_parameters(family: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family["chat"], tmp_path / "mixed"))
    weights = load_file(folder / "model.safetensors")
    mixed = {n: t if "norm" in n else t.bfloat16() for n, t in weights.items()}
    save_file(mixed, folder / "model.safetensors")
    assert opened(folder).dtype == "bfloat16"


def test_a_sharded_model_is_the_same_model(family: dict[str, Path], tmp_path: Path) -> None:
    whole = opened(family["sea"])
    folder = Path(shutil.copytree(family["sea"], tmp_path / "sharded"))
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
    os.unlink(folder / "model.safetensors")
    assert len(list(folder.glob("*.safetensors"))) > 2
    sharded = opened(folder)
    assert sharded.names == whole.names
    assert all(torch.equal(sharded.tensor(n), whole.tensor(n)) for n in whole.names)


def test_the_fingerprint_is_of_the_content(family: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(family["sea"], tmp_path / "copy"))
    before = opened(copy).fingerprint
    assert before == opened(family["sea"]).fingerprint != opened(family["chat"]).fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copy / "model.safetensors")
    assert opened(copy).fingerprint != before


def test_a_stored_copy_of_a_tied_head_is_no_parameter(
    family: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(family["sea"], tmp_path / "tied"))
    weights = load_file(folder / "model.safetensors")
    embed = weights["model.embed_tokens.weight"]
    extra = {
        "lm_head.weight": embed.clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
    }
    save_file({**weights, **extra}, folder / "model.safetensors")
    assert opened(folder).names == opened(family["sea"]).names


# -- names of models -----------------------------------------------------------------------------


def test_a_folder_is_relative_to_the_file_that_names_it(
    family: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "models").symlink_to(family["base"].parent)
    assert locate("../models/base", str(tmp_path / "runs")) == tmp_path / "models" / "base"
    with pytest.raises(CheckpointError, match=r"\.\./base: no such folder"):
        locate("../base", str(tmp_path / "runs"))


def test_an_embedded_model_is_found_by_name() -> None:
    assert opened("embedded:base").architecture == "LlamaForCausalLM"
    assert ModelRef("embedded:base").portable == "embedded:base"


def test_a_hub_id_may_name_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="org/name@v1: no folder of that name here"):
        locate("org/name@v1", str(tmp_path))


# -- damaged files -------------------------------------------------------------------------------


@given(content=st.binary(max_size=64))
def test_no_bytes_crash_the_header_reader(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"noise\.safetensors"):
        read_header(path)


def test_a_file_cut_anywhere_is_noticed(family: dict[str, Path], tmp_path: Path) -> None:
    intact = (family["sea"] / "model.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in [*range(0, len(intact), len(intact) // 40), len(intact) - 1]:
        path.write_bytes(intact[:size])
        with pytest.raises(CheckpointError, match="again"):
            read_header(path)


def test_a_pickle_is_never_opened(family: dict[str, Path], tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    folder = Path(shutil.copytree(family["sea"], tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickle"):
        opened(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_single_file_is_read_before_an_index(family: dict[str, Path], tmp_path: Path) -> None:
    """As transformers does: what an older save left beside it is nothing to it."""
    folder = Path(shutil.copytree(family["sea"], tmp_path / "both"))
    other = folder / "model-00001-of-00001.safetensors"
    shutil.copy(family["chat"] / "model.safetensors", other)
    names = load_file(other)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, other.name)}))
    model = opened(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    expected = load_file(family["sea"] / "model.safetensors")
    for name in model.names:
        assert torch.equal(model.tensor(name), expected[name])
        assert torch.equal(theirs[name], expected[name])


def test_a_tensor_of_a_shard_that_the_index_leaves_out_is_read(
    family: dict[str, Path], tmp_path: Path
) -> None:
    """As transformers does."""
    folder = Path(shutil.copytree(family["sea"], tmp_path / "less"))
    shard = folder / "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(shard)
    weight_map = dict.fromkeys(load_file(shard), shard.name)
    del weight_map["model.norm.weight"]
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    model = opened(folder)
    assert model.names == opened(family["sea"]).names
    theirs = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name in model.names:
        assert torch.equal(model.tensor(name), theirs[name])


def test_a_config_that_names_other_weights_is_refused(
    family: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(family["sea"], tmp_path / "named"))
    config = json.loads((folder / "config.json").read_text())
    for named, fits in (("model.safetensors", True), ("other.safetensors", False)):
        content = {**config, "transformers_weights": named}
        (folder / "config.json").write_text(json.dumps(content))
        if fits:
            opened(folder)
        else:
            with pytest.raises(CheckpointError, match=r"config\.json: transformers_weights: names"):
                opened(folder)


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": 1}, "'a': expected dtype, shape and data_offsets, found 1"),
        ({"a": {**ENTRY, "dtype": 7}}, r"'a'\.dtype: expected one of 'F4', .* found 7"),
        ({"a": {**ENTRY, "dtype": "F33"}}, r"'a'\.dtype: expected one of .* found 'F33'"),
        ({"a": {**ENTRY, "shape": 6}}, r"'a'\.shape: expected a list of sizes, found 6"),
        ({"a": {**ENTRY, "shape": [2, -3]}}, r"'a'\.shape: expected a list of sizes"),
        ({"a": {**ENTRY, "shape": [2, True]}}, r"'a'\.shape: expected a list of sizes"),
        ({"a": {**ENTRY, "shape": [0, 2**62, 9]}}, r"'a'\.shape: expected fewer than 2\*\*63"),
        ({"a": {**ENTRY, "data_offsets": []}}, r"'a'\.data_offsets: expected \[begin, end\]"),
        ({"a": {**ENTRY, "data_offsets": [24, 0]}}, r"'a'\.data_offsets: expected \[begin, end\]"),
        ({"a": {**ENTRY, "data_offsets": [0, 23]}}, r"'a'\.data_offsets: expected the 24 bytes"),
        ({"a": {k: v for k, v in ENTRY.items() if k != "shape"}}, r"'a'\.shape: missing"),
        ({"a": ENTRY, "b": ENTRY}, r"'b'\.data_offsets: expected to start at 24, where 'a' ends"),
        ({"a": {**ENTRY, "data_offsets": [4, 28]}}, "expected to start at 0, where the header ends"),
        ({"a": ENTRY, "__metadata__": {"x": 1}}, "__metadata__: expected an object of texts"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [24, 48]}}, "truncated"),
        ({"a": {**ENTRY, "shape": [5], "data_offsets": [0, 20]}}, "longer than its header says"),
        ({"a" * 2000: ENTRY}, "expected a name of at most 1,000 characters"),
        ([], "its header is no JSON object"),
    ],
)  # fmt: skip
def test_a_header_of_wrong_types_or_values_is_one_message(
    tmp_path: Path, header: Any, says: str
) -> None:
    path = tmp_path / "odd.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with pytest.raises(CheckpointError, match=rf"odd\.safetensors: .*{says}"):
        read_header(path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("architectures", [["x"]], "expected a list of texts"),
        ("tie_word_embeddings", "yes", "expected true or false, found 'yes'"),
        ("num_hidden_layers", 4.0, r"expected a whole number in 1\.\.10000, found 4\.0"),
        ("num_hidden_layers", 2**31, r"expected a whole number in 1\.\.10000, found 2147483648"),
        ("vocab_size", 0, "expected a whole number of at least 1, found 0"),
        ("num_attention_heads", True, "expected a whole number of at least 1 or a list"),
        ("rms_norm_eps", float("inf"), "expected a number of at least 0, found inf"),
        ("rope_theta", 10**400, "expected a number of at least 0, found 1000"),
        ("rope_parameters", [1], r"expected an object, found \[1\]"),
        ("eos_token_id", {"a": 1}, "expected a token id or a list of token ids"),
        ("text_config", {"vocab_size": "x"}, r"\.vocab_size: expected a whole number"),
        ("n_layer", 10**6, "expected at most 100,000, found 1000000"),
        ("num_labels", 10**9, "expected at most 100,000"),
        ("attention_types", [[["global"], 10**9]], "expected at most 100,000"),
        ("vision_config", {"num_hidden_layers": 10**7}, r"\.num_hidden_layers: expected at most"),
    ],
)
def test_a_config_of_wrong_types_or_values_is_one_message(
    family: dict[str, Path], tmp_path: Path, key: str, value: Any, says: str
) -> None:
    folder = Path(shutil.copytree(family["sea"], tmp_path / "odd"))
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}.*{says}"):
        opened(folder)
    # null stands for the default, which may be that of another model than this
    path.write_text(json.dumps({**json.loads(path.read_text()), key: None}))
    if key not in (
        "architectures",
        "tie_word_embeddings",
        "num_hidden_layers",
        "num_attention_heads",
    ):
        opened(folder)


def test_a_block_that_is_missing_is_named(family: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family["sea"], tmp_path / "gap"))
    weights = load_file(folder / "model.safetensors")
    for number in (0, 2):
        kept = {n: t for n, t in weights.items() if f"layers.{number}." not in n}
        save_file(kept, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"files lack model\.layers\.{number}\."):
            opened(folder)


# -- files that change ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "overwritten", "removed"])
@pytest.mark.parametrize("which", ["model", "adapter"])
def test_a_file_that_changes_between_merges_is_named(
    untied: Path, tmp_path: Path, how: str, which: str
) -> None:
    """A mapped file that was cut ends the process, if it is read."""
    folder = Path(shutil.copytree(untied, tmp_path / "model"))
    adapter = train_adapter(folder, tmp_path / "lora")
    model = opened(f"{folder}+{adapter}")
    materializer = Materializer(Parents({"only": model}))
    recipe = Recipe(None, {}, Body((group("passthrough", ("only",)),)), "float32", 0, "only")
    sizes: list[int] = []
    materializer.each(recipe, lambda name, tensor: sizes.append(tensor.numel()))
    assert sum(sizes) == model.parameters
    file = {"model": folder / "model.safetensors", "adapter": adapter / "adapter_model.safetensors"}
    changed = file[which]
    if how == "cut":
        os.truncate(changed, 4096)
    elif how == "overwritten":
        with changed.open("r+b") as stream:
            stream.seek(-4, os.SEEK_END)
            stream.write(b"\0\0\0\0")
        os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
    else:
        changed.unlink()
    said = re.escape(f"{model.name}: {changed} ") + "(was|is gone)"
    with pytest.raises(CheckpointError, match=said):
        materializer.each(recipe, lambda name, tensor: None)
    with pytest.raises(CheckpointError, match=said):
        model.check_finite()


def test_a_file_that_changes_before_it_is_mapped_is_named(
    family: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(family["sea"], tmp_path / "model"))
    model = opened(folder)
    shutil.copy(family["chat"] / "model.safetensors", folder)
    os.utime(folder / "model.safetensors", ns=(0, 1))
    with pytest.raises(CheckpointError, match=r"model\.safetensors was written anew"):
        model.tensor(model.names[0])


# -- adapters ------------------------------------------------------------------------------------


def train_adapter(base: Path, out: Path, **options: Any) -> Path:
    """A LoRA whose parameters are random, as if trained, written by peft itself."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **options}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose head is a matrix of its own."""
    folder = tmp_path_factory.mktemp("untied")
    return tiny_family(folder, ("base",), tie_word_embeddings=False)["base"]


PATTERNS = {
    "target_modules": "all-linear",
    "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3, "proj": 5},
    "alpha_pattern": {"model.layers.2.self_attn.k_proj": 1, r"layers\.[01]\..*_proj": 9},
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"layers_to_transform": [1, 2]},
        {"target_modules": "all-linear"},
        {"fan_in_fan_out": True},  # peft switches it off for the modules of these architectures
        PATTERNS,
        {**PATTERNS, "use_rslora": True},
        {"target_modules": "all-linear", "use_dora": True},
        {**PATTERNS, "use_dora": True},
        {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
        {"target_modules": ["embed_tokens", "lm_head", "v_proj"], "use_dora": True},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["norm", "input_layernorm", "mlp.gate_proj"]},
        {"modules_to_save": ["lm_head"], "target_modules": ["embed_tokens"], "use_dora": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_a_model_with_an_adapter_equals_what_peft_merges(
    untied: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    from peft import PeftModel

    adapter = train_adapter(untied, tmp_path / "lora", **options)
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(untied), adapter
    ).merge_and_unload()
    expected = merged.state_dict()
    ours, plain = opened(f"{untied}+{adapter}"), opened(untied)
    changed = 0
    for name in ours.names:
        torch.testing.assert_close(ours.tensor(name), expected[name], rtol=1e-5, atol=1e-6)
        differs = not torch.equal(ours.tensor(name), plain.tensor(name))
        assert differs <= ours.adapter.touches(name)  # type: ignore[union-attr]
        changed += differs
    assert changed > 0
    assert ours.fingerprint != plain.fingerprint


def test_an_adapter_is_expanded_in_float32(tmp_path: Path) -> None:
    """A bfloat16 model with a bfloat16 adapter: rounded nowhere."""
    base = tiny_family(tmp_path, ("base",), dtype="bfloat16")["base"]
    adapter = train_adapter(base, tmp_path / "lora", use_dora=True)
    file = adapter / "adapter_model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(file).items()}, file)
    stored, model = load_file(file), opened(f"{base}+{adapter}")
    module = "model.layers.1.self_attn.q_proj"
    a, b, m = (
        stored[f"base_model.model.{module}.lora_{part}"].double()
        for part in ("A.weight", "B.weight", "magnitude_vector")
    )
    plain = load_file(base / "model.safetensors")
    total = plain[f"{module}.weight"].double() + 1.5 * b @ a
    expected = m[:, None] * total / total.norm(dim=1, keepdim=True)
    ours = model.tensor(f"{module}.weight")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    untouched = "model.layers.1.self_attn.k_proj.weight"
    assert model.tensor(untouched).dtype == torch.bfloat16
    assert (model.mapped(untouched), model.mapped(f"{module}.weight")) == (True, False)


def test_another_scale_is_another_model(family: dict[str, Path], tmp_path: Path) -> None:
    adapter = train_adapter(family["base"], tmp_path / "lora")
    before = opened(f"{family['base']}+{adapter}").fingerprint
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 6', '"lora_alpha": 7'))
    assert opened(f"{family['base']}+{adapter}").fingerprint != before


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"target_parameters": ["mlp.up_proj.weight"]}, "target_parameters"),
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens"),
    ],
)
def test_an_adapter_that_is_more_than_lora_is_refused(
    family: dict[str, Path], tmp_path: Path, options: dict[str, Any], key: str
) -> None:
    adapter = train_adapter(family["base"], tmp_path / "lora", **options)
    with pytest.raises(CheckpointError, match=rf"has {key}: .*merge_and_unload"):
        opened(f"{family['base']}+{adapter}")


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
    ],
)
def test_an_adapter_cannot_train_one_end_of_a_tied_model(
    family: dict[str, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    adapter = train_adapter(family["base"], tmp_path / "lora", **options)
    with pytest.raises(CheckpointError, match=r"trains .* but .* ties its output head"):
        opened(f"{family['base']}+{adapter}")


def test_an_embedding_saved_beside_an_adapter_may_be_there(
    family: dict[str, Path], tmp_path: Path
) -> None:
    adapter = train_adapter(family["base"], tmp_path / "lora")
    weights = load_file(adapter / "adapter_model.safetensors")
    embed = load_file(family["base"] / "model.safetensors")["model.embed_tokens.weight"]
    for module in ("model.embed_tokens", "lm_head"):
        weights[f"base_model.model.{module}.weight"] = embed + 1
    save_file(weights, adapter / "adapter_model.safetensors")
    ours = opened(f"{family['base']}+{adapter}")
    assert torch.equal(ours.tensor("model.embed_tokens.weight"), embed + 1)
    weights["base_model.model.model.embed_tokens.weight"] = torch.zeros(300, 32)
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="the adapter belongs to another model"):
        opened(f"{family['base']}+{adapter}")


def test_a_pickled_adapter_is_converted_by_the_command_in_its_message(
    untied: Path, tmp_path: Path
) -> None:
    adapter = train_adapter(untied, tmp_path / "it's a lora")
    file = adapter / "adapter_model.safetensors"
    expected = load_file(file)
    torch.save(expected, adapter / "adapter_model.bin")
    file.unlink()
    with pytest.raises(
        CheckpointError, match=r"only pickle weights \(adapter_model\.bin\)"
    ) as found:
        opened(f"{untied}+{adapter}")
    command = str(found.value).partition("Convert them once: ")[2]
    interpreter = f"{shlex.quote(sys.executable)} "
    subprocess.run(command.replace("python ", interpreter, 1), shell=True, check=True)
    assert load_file(file).keys() == expected.keys()
    assert opened(f"{untied}+{adapter}").adapter is not None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"peft_type": None}, "peft_type: expected text, found None"),
        ({"peft_type": 3}, "peft_type: expected text, found 3"),
        ({"r": "4"}, "r: expected a whole number of at least 1, found '4'"),
        ({"r": 0}, "r: expected a whole number of at least 1, found 0"),
        ({"lora_alpha": [1]}, "lora_alpha: expected a number"),
        ({"rank_pattern": [1]}, "rank_pattern: expected an object of whole numbers"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern: expected an object of numbers"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern: expected a regular expression"),
        ({"use_dora": "no"}, "use_dora: expected true or false, found 'no'"),
        ({"modules_to_save": 5}, "modules_to_save: expected a list of texts"),
    ],
)
def test_an_adapter_config_of_wrong_types_or_values_is_one_message(
    family: dict[str, Path], tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    adapter = train_adapter(family["base"], tmp_path / "lora")
    path = adapter / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changed}))
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {re.escape(says)}"):
        opened(f"{family['base']}+{adapter}")
    (key,) = changed
    if key == "peft_type":
        del content[key]
        path.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="peft_type: missing; expected text"):
            opened(f"{family['base']}+{adapter}")


def test_an_adapter_of_another_model_is_refused(family: dict[str, Path], tmp_path: Path) -> None:
    wide = tiny_family(tmp_path, ("wide",), intermediate_size=64)["wide"]
    adapter = train_adapter(wide, tmp_path / "lora")
    with pytest.raises(CheckpointError, match="the adapter belongs to another model"):
        opened(f"{family['base']}+{adapter}")
    deep = tiny_family(tmp_path, ("deep",), num_hidden_layers=5)["deep"]
    adapter = train_adapter(deep, tmp_path / "deep-lora")
    with pytest.raises(CheckpointError, match=r"model\.layers\.4.*which .* does not have"):
        opened(f"{family['base']}+{adapter}")


def test_a_broken_adapter_is_refused(family: dict[str, Path], tmp_path: Path) -> None:
    adapter = train_adapter(family["base"], tmp_path / "lora")
    config = adapter / "adapter_config.json"
    text = config.read_text()
    config.write_text(text.replace('"r": 4', '"rr": 4'))
    with pytest.raises(
        CheckpointError, match=r"adapter_config\.json: r: missing; expected a whole number"
    ):
        opened(f"{family['base']}+{adapter}")
    config.write_text(text)
    config.write_text(text.replace('"r": 4', '"r": 3'))
    with pytest.raises(CheckpointError, match="their rank is 3"):
        opened(f"{family['base']}+{adapter}")
    config.write_text(text.replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(CheckpointError, match="has no magnitude vector"):
        opened(f"{family['base']}+{adapter}")
    config.write_text(text)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="only one of the two LoRA matrices"):
        opened(f"{family['base']}+{adapter}")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        opened(f"{family['base']}+{adapter}")
    config.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: no such file"):
        opened(f"{family['base']}+{adapter}")


# -- writing -------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 50), min_size=1), limit=st.integers(1, 100))
def test_shards_keep_order_and_fit(sizes: list[int], limit: int) -> None:
    named = {str(i): size for i, size in enumerate(sizes)}
    cut = shards(named, limit)
    assert [name for shard in cut for name in shard] == list(named)
    for shard in cut:
        assert len(shard) == 1 or sum(named[name] for name in shard) <= limit
    for first, second in pairwise(cut):  # no shard is cut too early
        assert sum(named[name] for name in first) + named[second[0]] > limit


STORED = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.arange(4).bfloat16(),
    "none": torch.empty(0, 7, dtype=torch.float16),
    "one": torch.tensor(3.5),
    'quoted "ü"': torch.ones(5, 1, 2),
    "across": torch.arange(6.0).reshape(2, 3).T,
}


@pytest.mark.parametrize("shard_bytes", [1, 30, 10**6])
@pytest.mark.parametrize("backwards", [False, True])
def test_weights_written_in_any_order_read_back(
    tmp_path: Path, shard_bytes: int, backwards: bool
) -> None:
    sizes = {name: tensor.nbytes for name, tensor in STORED.items()}
    stream = sorted(STORED.items(), reverse=backwards)
    seen: list[str] = []
    write_weights(tmp_path, stream, sizes, shard_bytes=shard_bytes, progress=seen.append)
    assert seen == [name for name, _ in stream]
    files = sorted(tmp_path.glob("*.safetensors"))
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert read.keys() == STORED.keys()
    for name, tensor in STORED.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    for file in files:
        assert {name: e.shape for name, e in read_header(file).items()}.items() <= {
            name: tuple(tensor.shape) for name, tensor in STORED.items()
        }.items()
    assert (len(files) == 1) == (shard_bytes == 10**6) != (tmp_path / INDEX).exists()
    if len(files) > 1:
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(sizes.values())
        assert {tmp_path / file for file in index["weight_map"].values()} == set(files)


def test_no_tensor_waits_in_memory_and_no_file_is_readable_before_it_is_whole(
    tmp_path: Path,
) -> None:
    sizes = {f"t{i}": 400 for i in range(6)}
    alive: list[weakref.ref[torch.Tensor]] = []

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for name in sizes:
            assert sum(tensor() is not None for tensor in alive) <= 1
            files = list(tmp_path.glob("*.safetensors"))
            assert len(files) == 3  # room for all of it is taken at once
            for file in files:
                with pytest.raises(CheckpointError):
                    read_header(file)
            tensor = torch.zeros(100)
            alive.append(weakref.ref(tensor))
            yield name, tensor

    write_weights(tmp_path, stream(), sizes, shard_bytes=800)
    assert len(read_header(tmp_path / "model-00003-of-00003.safetensors")) == 2


def test_files_are_written_from_many_threads(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(50, i + 1) for i in range(40)}
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    with (
        WeightFiles(tmp_path, sizes, shard_bytes=50_000) as files,
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(files.write, tensors, tensors.values()))
    for file in tmp_path.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.equal(tensor, tensors[name])


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with beside(out) as work:
        (work / "config.json").write_text("{}")
        assert not out.exists() and work.is_relative_to(out.parent)
    assert os.listdir(out) == ["config.json"]
    for failure in (KeyboardInterrupt(), ValueError("x")):
        with pytest.raises(type(failure)), beside(out, force=True) as work:
            (work / "config.json").write_text("new")
            raise failure
    with pytest.raises(RunError, match="the disk is full"), beside(out, force=True):
        raise OSError(28, "No space left on device")
    assert os.listdir(out.parent) == ["out"]
    assert (out / "config.json").read_text() == "{}"
    with pytest.raises(InputError, match="exists already"), beside(out):
        pass


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    with pytest.raises(FileNotFoundError), beside(out, force=True) as work:
        work.rmdir()
    assert os.listdir(tmp_path) == ["out"]
    assert (out / "config.json").read_text() == "old"


def test_a_full_disk_is_recognised_in_the_words_of_safetensors(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    assert durable.full(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert not durable.full(SafetensorError("I/O error: Permission denied (os error 13)"))
    assert not durable.full(OSError(13, "Permission denied"))
