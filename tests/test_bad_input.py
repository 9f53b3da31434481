"""Whatever a user can get wrong: one clear message, the right exit status, nothing half written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import evomerge
from evomerge import config
from evomerge.checkpoint import INDEX
from evomerge.cli import main
from evomerge.record.journal import Journal
from evomerge.testing.models import tiny_family

Make = Callable[..., Path]
Refuse = Callable[..., str]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below ``folder`` with its content; folders as None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a command that must be refused with a message holding ``parts``, leaving no trace."""

    def run(*arguments: str | Path, says: tuple[str, ...] = (), status: int = 2) -> str:
        before = tree(tmp_path)
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        assert captured.err.count("evomerge: ") >= 1
        for part in says:
            assert part in captured.err
        assert captured.out == ""
        assert tree(tmp_path) == before
        return captured.err

    return run


def edit(path: Path, old: str, new: str) -> str:
    """Replace one piece of a file; ``file:line`` of the replacement."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (old, text)
    path.write_text(text.replace(old, new), encoding="utf-8")
    return f"{path}:{text[: text.index(old)].count(chr(10)) + 1}"


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else config.dump(content), encoding="utf-8")
    return path


@pytest.fixture
def parts(run_folder: Make) -> Path:
    """A run whose space and fitness stand in files of their own."""
    folder = run_folder("parts")
    content = config.read(folder / "run.yaml").plain
    write(folder / "space.yaml", content["space"])
    write(folder / "fitness.yaml", content["fitness"])
    write(folder / "run.yaml", {**content, "space": "space.yaml", "fitness": "fitness.yaml"})
    return folder


# -- YAML ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("run.yaml", "optimizer:", "optimiser:", ("optimiser: unknown key (did you mean 'optimizer'?)",)),
        ("run.yaml", "name: cma", "name: cmaes", ("optimizer.name: ", "found 'cmaes' (did you mean 'cma'?)")),
        ("run.yaml", "tokenizer: chat", "tokenizer: chit", ("'chit' is no model of this run (did you mean 'chat'?)",)),
        ("run.yaml", "evaluations: 22", "evaluations: many", ("expected a whole number of at least 1, found 'many'",)),
        ("run.yaml", "space: space.yaml", "space: spice.yaml", ("spice.yaml: no such file",)),
        ("space.yaml", "groups:", "group:", ("group: unknown key (did you mean 'groups'?)",)),
        ("space.yaml", "ties]", "tiess]", ("no method 'tiess' (did you mean 'ties'?)", "evomerge methods")),
        ("space.yaml", "layers: 2", "layer: 2", ("groups.layer: unknown key (did you mean 'layers'?)",)),
        ("fitness.yaml", "objectives:", "objective:", ("objective: unknown key (did you mean 'objectives'?)",)),
        ("fitness.yaml", "select: 6", "selct: 6", ("items.selct: unknown key (did you mean 'select'?)",)),
        ("fitness.yaml", "task: sums", "tsk: sums", ("objectives.sums.tsk: unknown key (did you mean 'task'?)",)),
    ],
)  # fmt: skip
def test_a_mistake_in_a_run_is_shown_with_file_line_and_hint(
    parts: Path, refuse: Refuse, file: str, old: str, new: str, says: tuple[str, ...]
) -> None:
    where = edit(parts / file, old, new)
    for command in (["search", "--ray", "off"], ["check"]):
        refuse(command[0], parts, *command[1:], says=(where, *says))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"density": {"range": [0, 3]}}, ("[0, 3] reaches outside of [0, 1]; nothing else has a meaning",)),
        ({"weight": {"range": [1, 0]}}, ("expected [low, high], found [1, 0]",)),
        ({"weight": {"range": [float("nan"), 1]}}, ("expected [low, high], found [nan, 1]",)),
        ({"weight": {"choices": []}}, ("expected at least one value",)),
        ({"weigth": 1}, ("no parameter of task_arithmetic, ties (did you mean 'weight'?)",)),
        ({"density": {"chta": 0.5}}, ("no source 'chta' (did you mean 'chat'?)",)),
        ({"density": 1.5}, ("expected a number in [0, 1], found 1.5",)),
        ({"lambda": {"chat": 1.0}}, ("one value for all models",)),
    ],
)  # fmt: skip
def test_a_parameter_outside_its_declaration_is_refused(
    parts: Path, refuse: Refuse, parameters: dict[str, Any], says: tuple[str, ...]
) -> None:
    space = config.read(parts / "space.yaml").plain
    write(parts / "space.yaml", {**space, "parameters": parameters})
    refuse(
        "check",
        parts,
        says=(f"{parts / 'space.yaml'}:", f": parameters.{next(iter(parameters))}", *says),
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"roles": ["attn", "mpl"]}, ("no role 'mpl' (did you mean 'mlp'?)",)),
        ({"roles": ["attn", "attn"]}, ("'attn' stands twice",)),
        ({"roles": ["norm", "other"]}, ("'norm' stands twice", "other")),
        ({"roles": ["q", "attn"]}, ("'q' is part of 'attn'; name one of the two",)),
        ({"roles": ["qq"]}, ("no role 'qq' (did you mean 'q'?)",)),
    ],
)
def test_roles_of_a_space_are_checked(
    parts: Path, refuse: Refuse, changes: dict[str, Any], says: tuple[str, ...]
) -> None:
    space = config.read(parts / "space.yaml").plain
    write(parts / "space.yaml", {**space, "groups": changes})
    refuse("check", parts, says=(f"{parts / 'space.yaml'}:", ": groups.roles: ", *says))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"groups": "tensors"}, (": groups: expected tensor,", "did you mean 'tensor'?")),
        ({"groups": "tensor", "knots": 3}, (": knots: give either knots or groups: tensor",)),
    ],
)
def test_a_group_a_tensor_is_said_in_one_word(
    parts: Path, refuse: Refuse, changes: dict[str, Any], says: tuple[str, ...]
) -> None:
    space = config.read(parts / "space.yaml").plain
    write(parts / "space.yaml", {**space, **changes})
    refuse("check", parts, says=(f"{parts / 'space.yaml'}:", *says))


RECIPE = """\
base: {base}
models: {{chat: {chat}, sea: {sea}}}
dtype: float32
groups:
  - {{layers: [0, 1], method: ties, weight: {{chat: 0.5, sea: 0.5}}}}
  - {{method: linear}}
"""


@pytest.fixture
def recipe(tmp_path: Path, family: dict[str, Path]) -> Path:
    return write(tmp_path / "recipe.yaml", RECIPE.format(**family))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("groups:", "gruops:", ("gruops: unknown key (did you mean 'groups'?)",)),
        ("method: ties", "method: tise", ("groups[0].method: no method 'tise' (did you mean 'ties'?)",)),
        ("weight:", "weigth:", ("groups[0].weigth: unknown key (did you mean 'weight'?)", "density")),
        ("chat: 0.5", "chta: 0.5", ("no source 'chta' in this group (did you mean 'chat'?)",)),
        ("chat: 0.5", "chat: much", ("groups[0].weight.chat: expected a number, found 'much'",)),
        ("dtype: float32", "dtype: fp32", ("dtype: expected one of 'float32'", "found 'fp32'")),
        ("layers: [0, 1]", "layers: [1, 0]", ("expected [first, last], both included, found [1, 0]",)),
        ("method: linear", "method: linear, models: [chat, chat]", ("'chat' stands twice",)),
        ("method: linear", "method: slerp", ("slerp takes exactly 1 of the source models, found 2",)),
        ("method: linear", "roles: [atn], method: linear", ("no role 'atn' (did you mean 'attn'?)",)),
    ],
)  # fmt: skip
def test_a_mistake_in_a_recipe_is_shown_with_file_line_and_hint(
    recipe: Path, tmp_path: Path, refuse: Refuse, old: str, new: str, says: tuple[str, ...]
) -> None:
    where = edit(recipe, old, new)
    refuse("check", recipe, says=(where, *says))
    refuse("merge", recipe, "-o", tmp_path / "out", says=(where, *says))


def test_a_recipe_that_leaves_tensors_out_is_refused(
    recipe: Path, tmp_path: Path, refuse: Refuse
) -> None:
    edit(recipe, "method: linear", "layers: [2, 9], method: linear")
    says = ("matches 'model.embed_tokens.weight'", "neither layers nor roles")
    refuse("check", recipe, says=says)
    refuse("merge", recipe, "-o", tmp_path / "out", says=says)


def test_a_tensor_that_the_models_do_not_have_is_refused(
    recipe: Path, tmp_path: Path, refuse: Refuse
) -> None:
    edit(recipe, "layers: [0, 1]", "tensors: [model.layers.7.mlp.up_proj.weight]")
    says = ("groups[0].tensors: no tensor of the merged model is called", "layers.7.mlp.up_proj")
    refuse("check", recipe, says=says)
    refuse("merge", recipe, "-o", tmp_path / "out", says=says)


def test_files_that_are_no_yaml_are_refused(tmp_path: Path, refuse: Refuse) -> None:
    for text, says in (
        ("a: [1", ("broken.yaml:", "not valid YAML")),
        ("", ("broken.yaml: is empty",)),
        ("a: 1\na: 2\n", ("broken.yaml:2: a: this key stands twice",)),
        ("a: !!python/object:os.system {}\n", ("broken.yaml",)),
        ("just words", ("broken.yaml:1: expected a mapping of keys, found 'just words'",)),
    ):
        refuse("merge", write(tmp_path / "broken.yaml", text), "-o", tmp_path / "x", says=says)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    refuse("check", tmp_path / "latin.yaml", says=("latin.yaml: cannot be read",))
    refuse("check", tmp_path / "absent.yaml", says=("absent.yaml: no such file",))


def test_several_mistakes_are_reported_at_once(parts: Path, refuse: Refuse) -> None:
    places = [
        edit(parts / "run.yaml", "name: cma", "name: cmaes"),
        edit(parts / "space.yaml", "ties]", "tiess]"),
        edit(parts / "fitness.yaml", "select: 6", "selct: 6"),
    ]
    message = refuse("search", parts, "--ray", "off", says=tuple(places))
    assert len(message.splitlines()) == 3


def test_check_looks_at_models_and_tasks_though_other_lines_are_wrong(
    run_folder: Make, refuse: Refuse, tmp_path: Path
) -> None:
    folder = run_folder(
        models={"base": "embedded:base", "sources": {"chat": str(tmp_path / "nowhere")}},
        fitness={
            "include": ["."],
            "objectives": {"one": {"task": "smus"}, "two": {"task": "sums", "metrik": "acc"}},
        },
        optimizer={"name": "cmaes"},
    )
    says = (
        "nowhere: no such folder",
        "objectives.one: unknown lm-eval task 'smus' (did you mean 'sums'?)",
        "objectives.two.metrik: unknown key (did you mean 'metric'?)",
        "optimizer.name",
    )
    message = refuse("check", folder, says=says)
    assert len(message.splitlines()) == len(says)


def test_a_command_says_what_it_was_given_instead(
    run_folder: Make, recipe: Path, refuse: Refuse, tmp_path: Path
) -> None:
    folder, out = run_folder(), tmp_path / "out"
    space = write(tmp_path / "space.yaml", {"methods": ["ties"]})
    model = Path(evomerge.__file__).parent / "demo" / "models" / "chat"
    refuse("merge", space, "-o", out, says=("is a search space", "expected a recipe"))
    refuse("merge", model, "-o", out, says=("is a model", "expected a recipe"))
    refuse("export", space, "--format", "mergekit", says=("is a search space",))
    refuse("export", recipe, says=("is a recipe already", "--format mergekit"))
    refuse("export", recipe, "--candidate", "1", says=("--candidate: is of a run",))
    refuse("check", folder.parent, says=("it holds runs", str(folder)))
    refuse("check", tmp_path / "nowhere", says=("nowhere: no such file",))
    assert not out.exists()


def test_mistakes_in_models_and_tasks_are_reported_at_once(
    run_folder: Make, refuse: Refuse, tmp_path: Path
) -> None:
    folder = run_folder(
        models={"base": "embedded:bass", "sources": {"chat": str(tmp_path / "nowhere")}},
        fitness={
            "include": ["."],
            "objectives": {
                "one": {"task": "smus"},
                "two": {"task": "sums", "metric": "accuracy"},
            },
        },
    )
    says = (
        "embedded:bass: no such embedded model (did you mean 'base'?); there are: base, chat, sea",
        "nowhere: no such folder",
        "unknown lm-eval task 'smus' (did you mean 'sums'?)",
        "fitness.objectives.two.metric: sums: no metric 'accuracy'",
        "it reports: acc",
    )
    refuse("search", folder, "--ray", "off", says=says)


# -- models --------------------------------------------------------------------------------------


@pytest.fixture
def parent(family: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a parent, to be damaged."""
    return Path(shutil.copytree(family["sea"], tmp_path / "parent"))


@pytest.fixture
def refuse_parent(
    run_folder: Make, family: dict[str, Path], refuse: Refuse, tmp_path: Path
) -> Refuse:
    """Both a search and a merge refuse the given model as a source."""

    def run(model: str | Path, *says: str) -> str:
        sources = {"chat": str(family["chat"]), "other": str(model)}
        shutil.rmtree(tmp_path / "bad-parent", ignore_errors=True)
        folder = run_folder("bad-parent", models={"base": str(family["base"]), "sources": sources})
        message = refuse("search", folder, "--ray", "off", says=says)
        recipe = {
            "base": str(family["base"]),
            "models": sources,
            "groups": [{"method": "task_arithmetic"}],
        }
        path = write(tmp_path / "bad-parent.yaml", recipe)
        refuse("check", path, says=says)
        return message

    return run


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"hidden_size": 64}, ("shapes differ: model.embed_tokens.weight is (258, 64) and (258, 32)",)),
        ({"intermediate_size": 64}, ("shapes differ: model.layers.0.mlp.down_proj.weight",)),
        ({"num_hidden_layers": 3}, ("depths differ: 3 and 4 layers",)),
        ({"architecture": "Qwen2"}, ("architectures differ: Qwen2ForCausalLM and LlamaForCausalLM",)),
    ],
)  # fmt: skip
def test_parents_that_differ_are_refused(
    tmp_path: Path, refuse_parent: Refuse, shape: dict[str, Any], says: tuple[str, ...]
) -> None:
    other = tiny_family(tmp_path / "other", ("other",), **shape)["other"]
    message = refuse_parent(other, *says)
    assert f"other ({other})" in message  # which of the models it is, by name and folder


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ("in rope: rope_type is 'linear' and 'default'",)),
        ({"hidden_act": "gelu"}, ("in activation: hidden_act is 'gelu' and 'silu'", "allow: [activation]")),
        ({"num_attention_heads": 4, "num_key_value_heads": 2}, ("in heads: num_attention_heads is 4 and 2",)),
    ],
)  # fmt: skip
def test_parents_under_settings_that_matter_are_refused(
    tmp_path: Path, refuse_parent: Refuse, shape: dict[str, Any], says: tuple[str, ...]
) -> None:
    other = tiny_family(tmp_path / "other", ("other",), **shape)["other"]
    message = refuse_parent(other, "config.json differs", "under `models` in run.yaml", *says)
    assert f"other ({other}) and base (" in message


def test_what_float16_cannot_hold_names_the_dtype_that_can(
    family: dict[str, Path], tmp_path: Path, refuse: Refuse
) -> None:
    models = {"chat": str(family["chat"]), "sea": str(family["sea"])}
    group = {"method": "linear", "weight": 3e5, "normalize": False}
    content = {"models": models, "dtype": "float16", "groups": [group]}
    recipe = write(tmp_path / "large.yaml", content)
    says = ("which float16 cannot: it ends at 6.55e+04", "Merge in bfloat16 or float32, which can")
    refuse("merge", recipe, "-o", tmp_path / "out", status=1, says=says)
    write(recipe, {**content, "groups": [{**group, "weight": 3e38}]})
    refuse("merge", recipe, "-o", tmp_path / "out", status=1, says=("NaN or infinite values",))
    write(recipe, {**content, "dtype": "bfloat16"})
    assert main(["merge", str(recipe), "-o", str(tmp_path / "out")]) == 0


def test_parents_with_other_vocabularies_and_no_tokenizer_are_refused(
    parent: Path, refuse_parent: Refuse
) -> None:
    (parent / "tokenizer.json").unlink()
    weights = load_file(parent / "model.safetensors")
    embed = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([embed, embed[:2]])
    save_file(weights, parent / "model.safetensors")
    refuse_parent(
        parent,
        "vocabularies differ: model.embed_tokens.weight has 260 and 258 rows",
        "other has no tokenizer.json to align them by",
    )


def test_an_architecture_that_transformers_lacks_is_refused(
    parent: Path, refuse_parent: Refuse
) -> None:
    edit(parent / "config.json", "LlamaForCausalLM", "FictionForCausalLM")
    refuse_parent(parent, "has no model called 'FictionForCausalLM'", "beside their weights")


def test_weights_of_another_architecture_than_the_config_says_are_refused(
    parent: Path, refuse_parent: Refuse
) -> None:
    edit(parent / "config.json", "LlamaForCausalLM", "GPT2LMHeadModel")
    refuse_parent(parent, "its files lack", "GPT2LMHeadModel")


def test_a_tensor_that_no_part_of_the_model_claims_is_refused(
    parent: Path, refuse_parent: Refuse
) -> None:
    weights = load_file(parent / "model.safetensors")
    save_file(
        {**weights, "model.extra.weight": weights["model.norm.weight"].clone()},
        parent / "model.safetensors",
    )
    refuse_parent(parent, "its files hold model.extra.weight", "a merge would lose it")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, parent / "model.safetensors")
    refuse_parent(parent, "its files lack model.layers.1.mlp.up_proj.weight")


def test_an_absent_or_damaged_weight_file_is_refused(parent: Path, refuse_parent: Refuse) -> None:
    weights = parent / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-100])
    refuse_parent(parent, f"{weights}: truncated", f"{len(intact):,}", "again")
    for broken in (b"", intact[:5], b"\xff" * 64, b"\x04" + bytes(7) + b"null", intact[:64]):
        weights.write_bytes(broken)
        refuse_parent(parent, f"{weights}: not a readable safetensors file", "again")
    weights.unlink()
    refuse_parent(parent, f"{parent}: no model.safetensors")
    (parent / "config.json").unlink()
    refuse_parent(parent, f"{parent / 'config.json'}: no such file")


def sharded(folder: Path, files: int) -> list[Path]:
    """The model in ``folder`` cut into shards with an index, each of some of its tensors."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    made, weight_map = [], {}
    for number in range(files):
        path = folder / f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        names = sorted(weights)[number::files]
        save_file({name: weights[name] for name in names}, path, {"format": "pt"})
        weight_map.update(dict.fromkeys(names, path.name))
        made.append(path)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return made


def test_an_index_that_does_not_fit_its_shards_is_refused(
    parent: Path, refuse_parent: Refuse
) -> None:
    first, second = sharded(parent, 2)
    index = parent / INDEX
    intact = index.read_text()
    weight_map = json.loads(intact)["weight_map"]
    name = "model.norm.weight"

    def names(**changed: Any) -> None:
        index.write_text(json.dumps({"weight_map": {**weight_map, **changed}}))

    names(**{name: "model-2.safetensors"})
    refuse_parent(parent, f"{index}: names 1 absent shard(s): model-2.safetensors")
    names(**{"model.extra": first.name})
    refuse_parent(parent, f"{index}: weight_map: 'model.extra' is not in {first.name}")
    wrong = first if weight_map[name] == second.name else second
    names(**{name: wrong.name})
    refuse_parent(parent, f"{name!r} is not in {wrong.name}; it is in {weight_map[name]}")
    for outside in ("/etc/passwd", "../sea/model.safetensors", "..", "", f"sub/{first.name}"):
        names(**{name: outside})
        refuse_parent(parent, f"{index}: weight_map: {name!r}: expected the name of a file in this")
    names(**{name: 1})
    refuse_parent(parent, f"{index}: weight_map: expected an object of file names, found ")
    index.write_text("{")
    refuse_parent(parent, f"{index}: not readable JSON")
    index.write_text(intact)
    second.write_bytes(first.read_bytes())
    refuse_parent(parent, "lies in two shards", first.name, second.name)
    second.unlink()
    refuse_parent(parent, f"{index}: names 1 absent shard(s): {second.name}")


def test_shards_without_an_index_are_listed_and_so_are_the_missing_ones(
    parent: Path, refuse_parent: Refuse
) -> None:
    shards = sharded(parent, 4)
    (parent / INDEX).unlink()
    (parent / "training_args.bin").touch()  # no weights
    refuse_parent(parent, "holds shards without their index", shards[3].name, "no shard is missing")
    shards[2].unlink()
    message = refuse_parent(parent, f"1 of 4 shards are missing: {shards[2].name}")
    assert message.count(shards[2].name) == 1


def test_a_folder_without_weights_is_refused_with_those_of_other_names(
    parent: Path, refuse_parent: Refuse
) -> None:
    weights = parent / "model.safetensors"
    weights.rename(parent / "consolidated.safetensors")
    refuse_parent(parent, "no model.safetensors and no", "there is consolidated.safetensors")
    weights.symlink_to(parent / "gone")
    refuse_parent(parent, "model.safetensors is a link to nothing")
    weights.unlink()
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 7\n")
    refuse_parent(parent, f"{weights}: is a Git LFS pointer", "git lfs pull")


def test_an_adapter_is_no_model_and_a_model_no_adapter(
    parent: Path, family: dict[str, Path], refuse_parent: Refuse, tmp_path: Path
) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": "org/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(said))
    save_file({}, adapter / "adapter_model.safetensors")
    refuse_parent(adapter, "is an adapter", f"MODEL+{adapter}", "'org/base'")
    refuse_parent(f"{parent}+{family['sea']}", "the folder holds a model", "MODEL+ADAPTER")
    shutil.copy(adapter / "adapter_config.json", parent)
    refuse_parent(parent, "holds a model and an adapter", "'org/base'", "MODEL+ADAPTER")


def test_pickles_are_refused_with_the_command_that_converts_them(
    parent: Path, refuse_parent: Refuse
) -> None:
    torch.save(load_file(parent / "model.safetensors"), parent / "pytorch_model.bin")
    (parent / "model.safetensors").unlink()
    refuse_parent(parent, "only pickle weights (pytorch_model.bin)", "save_pretrained")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_parent_that_is_not_finite_is_refused(
    parent: Path, tmp_path: Path, refuse_parent: Refuse, refuse: Refuse, value: float
) -> None:
    weights = load_file(parent / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    weights[name][3, 5] = value
    save_file(weights, parent / "model.safetensors")
    refuse_parent(parent, f"{name} holds 1 NaN or infinite value", str(parent), "intact copy")
    refuse(
        "merge", tmp_path / "bad-parent.yaml", "-o", tmp_path / "out",
        says=(f"{name} holds 1 NaN or infinite value", str(parent), "intact copy"),
    )  # fmt: skip


def test_a_quantized_parent_is_refused(parent: Path, refuse_parent: Refuse) -> None:
    weights = load_file(parent / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, parent / "model.safetensors")
    refuse_parent(parent, f"{name} is stored as F8_E4M3", "float32, float16, bfloat16")


def test_a_hub_id_without_network_is_refused(refuse_parent: Refuse) -> None:
    refuse_parent("nobody/no-such-model", "nobody/no-such-model: no folder of that name here, and")


def test_a_tokenizer_that_no_worker_could_load_is_refused(
    parent: Path, family: dict[str, Path], run_folder: Make, refuse: Refuse
) -> None:
    models = {"base": str(family["base"]), "sources": {"sea": str(parent)}, "tokenizer": "sea"}
    folder = run_folder(models=models)
    (parent / "generation_config.json").write_text("{")
    says = (f"{parent / 'generation_config.json'}: not readable JSON",)
    refuse("search", folder, "--ray", "off", says=says)
    (parent / "generation_config.json").unlink()
    for path in parent.glob("tokenizer*"):
        path.unlink()
    unusable = (f"{parent}: its tokenizer cannot be loaded", "models.tokenizer")
    refuse("search", folder, "--ray", "off", says=unusable)


# -- tasks ---------------------------------------------------------------------------------------


def test_an_empty_data_file_is_refused(run_folder: Make, refuse: Refuse) -> None:
    folder = run_folder()
    for name in ("sums.jsonl", "texts.jsonl"):
        (folder / name).write_text("")
    says = (f"sums ({folder / 'sums.yaml'}): its data is empty", f"{folder / 'texts.jsonl'}")
    refuse("search", folder, "--ray", "off", says=says)


def test_a_data_file_too_small_to_split_is_refused(run_folder: Make, refuse: Refuse) -> None:
    folder = run_folder()
    (folder / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    says = ("texts.jsonl: 2 different sources are too few", "'select' split")
    refuse("search", folder, "--ray", "off", says=says)


def test_what_a_task_does_not_allow_is_refused_with_its_line(parts: Path, refuse: Refuse) -> None:
    with (parts / "sums.yaml").open("a") as task:
        task.write("num_fewshot: 0\n")
    where = edit(parts / "fitness.yaml", "{task: sums}", "{task: sums, num_fewshot: 3}")
    says = (f"{where}: objectives.sums: sums: the task fixes num_fewshot at 0",)
    refuse("search", parts, "--ray", "off", says=says)
    where = edit(parts / "fitness.yaml", "num_fewshot: 3", "language: tai")
    says = (f"{where}: objectives.sums.language: unknown language 'tai' (did you mean",)
    refuse("check", parts, says=says)
    refuse("check", parts / "fitness.yaml", says=says)


def test_anchors_of_other_items_are_refused_with_their_line(parts: Path, refuse: Refuse) -> None:
    with (parts / "fitness.yaml").open("a") as fitness:
        fitness.write("anchors:\n  sums:\n    sum-7-7: 1.0\n")
    line = len((parts / "fitness.yaml").read_text().splitlines())
    says = (f"fitness.yaml:{line}: anchors.sums.sum-7-7: this item is not in the search split",)
    refuse("check", parts, says=says)
    refuse("search", parts, "--ray", "off", says=says)


def test_score_refuses_what_a_search_would(
    run_folder: Make, family: dict[str, Path], refuse: Refuse
) -> None:
    folder = run_folder()
    path = write(folder / "fitness.yaml", "objectives:\n  one: {tsak: sums}\n")
    refuse("score", family["base"], "--fitness", path, says=(f"{path}:2: objectives.one.tsak",))
    refuse("score", family["base"], "--fitness", folder / "none.yaml", says=("no such file",))
    says = (f"{folder}: is a folder; expected a YAML file\n",)
    refuse("score", family["base"], "--fitness", folder, says=says)
    refuse("score", "x", "--fitness", path, "--again", says=("--again: is for --split report",))
    write(path, {"include": ["."], "objectives": {"one": {"task": "sums"}}})
    refuse("score", "embedded:cat", "--fitness", path, says=("did you mean 'chat'?",))


# -- runs ----------------------------------------------------------------------------------------


def begin(folder: Path) -> Path:
    """Start the run in a folder, and stop it before its first evaluation."""
    from evomerge.record.events import JOURNAL
    from evomerge.run.identity import head_of
    from evomerge.run.preflight import prepare
    from evomerge.run.spec import load_run

    with Journal.open(folder / JOURNAL) as journal:
        journal.append(head_of(prepare(load_run(folder))).plain)
    return folder


@pytest.fixture
def started(run_folder: Make) -> Path:
    return begin(run_folder("started"))


def test_a_run_changed_after_its_start_is_refused(started: Path, refuse: Refuse) -> None:
    edit(started / "run.yaml", "population: 4", "population: 5")
    says = ("optimizer.population was 4 and is 5", str(started), "another folder")
    refuse("search", started, "--ray", "off", says=says)
    refuse("resume", started, "--ray", "off", says=says)


def test_a_recipe_of_start_changed_after_the_start_is_refused(
    run_folder: Make, refuse: Refuse
) -> None:
    from evomerge.run.preflight import prepare
    from evomerge.run.spec import load_run

    space = {"methods": ["task_arithmetic"], "start": ["known.yaml"]}
    folder = run_folder(space=space)
    recipe = prepare(load_run(run_folder("other"))).space.uniform()
    recipe.save(folder / "known.yaml")
    begin(folder)
    edit(folder / "known.yaml", "sea: 1.0", "sea: 0.5")
    says = ("space.start: known.yaml: this recipe changed since the search was started",)
    refuse("search", folder, "--ray", "off", says=says)


def test_a_parent_changed_after_the_start_is_refused(
    run_folder: Make, family: dict[str, Path], parent: Path, refuse: Refuse
) -> None:
    models = {"base": str(family["base"]), "sources": {"sea": str(parent)}}
    folder = begin(run_folder(models=models))
    shutil.copy(family["chat"] / "model.safetensors", parent)
    weights = parent / "model.safetensors"
    says = (f"sea ({parent}): {weights}: this file changed since the search was started",)
    refuse("search", folder, "--ray", "off", says=says)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("sums.jsonl", '"question": "2+3"', '"question": "2+4"'),
        ("sums.yaml", "{{question}}=", "{{question}} ="),
        ("texts.jsonl", "passage 3:", "passage three:"),
    ],
)
def test_data_changed_after_the_start_is_refused(
    file: str, old: str, new: str, started: Path, refuse: Refuse
) -> None:
    text = (started / file).read_text()
    assert old in text
    (started / file).write_text(text.replace(old, new))
    says = (f": {file}: this file changed since the search was started",)
    refuse("search", started, "--ray", "off", says=says)


def test_parents_whose_weights_mean_something_else_are_refused(
    family: dict[str, Path], run_folder: Make, tmp_path: Path, refuse: Refuse
) -> None:
    parent = tmp_path / "other-heads"
    shutil.copytree(family["chat"], parent)
    config = json.loads((parent / "config.json").read_text())
    # tensors of the same shapes
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    (parent / "config.json").write_text(json.dumps({**config, **heads}))
    models = {"base": str(family["base"]), "sources": {"chat": str(parent)}}
    refuse("check", run_folder(models=models), says=("heads", "4 and 2"))


def test_a_journal_of_another_run_is_refused(
    started: Path, run_folder: Make, refuse: Refuse
) -> None:
    other = run_folder("other", seed=7)
    shutil.copy(started / "journal.jsonl", other)
    refuse("search", other, "--ray", "off", says=("seed was None and is 7", str(other)))
    (other / "journal.jsonl").write_text('{"event":"run","format":99}\n')
    for command in ("search", "resume", "status", "export"):
        arguments = ["--ray", "off"] if command in ("search", "resume") else []
        refuse(
            command,
            other,
            *arguments,
            says=("journal.jsonl", "not the journal of a run in format 7"),
        )
    (other / "journal.jsonl").write_text('{"event":"batch"}\n{"event":"batch"}\n')
    refuse("status", other, says=("journal.jsonl", "not the journal of a run in format 7"))
    (other / "journal.jsonl").write_text('words\n{"event":"batch"}\n')
    refuse("status", other, says=("journal.jsonl:1: the journal is damaged",))


def test_a_run_that_lost_its_answers_or_a_key_of_its_journal_is_refused(
    run_folder: Make, small: dict[str, Any], refuse: Refuse
) -> None:
    from evomerge import search

    folder = run_folder(**{**small, "budget": {"evaluations": 6}})
    search(folder)
    responses = folder / "responses.bin"
    kept = responses.rename(folder / "kept")
    says = (f"{responses}: cannot be opened: No such file", "restore it from a copy")
    refuse("search", folder, "--ray", "off", says=says)  # and they are not made anew
    kept.rename(responses)
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        del event["sum"]
    kinds = {event["event"]: number for number, event in enumerate(events)}
    assert set(kinds) == {"run", "session", "batch", "evaluation", "settled", "round", "end"}

    def forge(changed: list[dict[str, Any]]) -> None:
        """With checksums as they would be written: what is told is that the events make no sense."""
        path.unlink()
        with Journal.open(path) as journal:
            for event in changed:
                journal.append(event)

    for kind, number in kinds.items():
        event = events[number]
        wanted = [*event, "candidates.id"] if kind == "batch" else list(event)
        for key in [key for key in wanted if key != "event"]:
            damaged = deepcopy(event)
            of, _, inner = key.partition(".")
            if inner:
                del damaged[of][-1][inner]
            else:
                del damaged[of]
            forge([*events[:number], damaged, *events[number + 1 :]])
            says = (f"{path}:{number + 1}: the journal is damaged: ", f"field `{inner or key}`")
            refuse("status", folder, says=says)
        refuse("search", folder, "--ray", "off", says=says)
    last = {(event.get("batch"), event["event"]): number for number, event in enumerate(events)}
    for line, keys, value, told in (
        (
            0,
            ["objectives", 0],
            {"name": "sums"},
            "missing required field `scorer` - at `$.objectives[0]`",
        ),
        (0, ["splits", "items"], 7, "Expected `object`, got `int` - at `$.splits.items`"),
        (0, ["more"], 7, "Object contains unknown field `more`"),
        (0, ["event"], "walk", "Invalid value 'walk' - at `$.event`"),
        (last[0, "batch"], ["candidates", 0], 3, "Expected `object`, got `int`"),
        (last[0, "batch"], ["phase"], "lunch", "Invalid enum value 'lunch'"),
        (
            last[0, "batch"],
            ["candidates", 0, "body", "groups"],
            [{"method": "tise"}],
            "no method 'tise'",
        ),
        (last[1, "evaluation"], ["values"], {}, "[] are not the objectives of this run"),
        (last[1, "evaluation"], ["values"], 7, "Expected `object | null`, got `int`"),
        (last[1, "evaluation"], ["block"], 7, "Expected `array | null`, got `int`"),
        (last[1, "evaluation"], ["candidate"], 999, "an evaluation of candidate 999 in batch 1"),
        (kinds["end"], ["table", "trust"], {}, "KeyError: 'search'"),
        (kinds["end"], ["table", "rows", 0, "label"], 7, "label is 7; expected str"),
    ):
        changed = deepcopy(events)
        inner = changed[line]
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        forge(changed)
        place = f"{path}:{line + 1}: the journal is damaged: "
        if "body" not in keys:  # that is read by who needs its recipe
            refuse("status", folder, says=(place, told))
        if "candidate" in keys or "body" in keys or "trust" in keys:
            refuse("search", folder, "--ray", "off", says=(place, told))
    report = max(event["batch"] for event in events if event["event"] == "batch")
    for lost, tells, told in (
        (last[0, "evaluation"], kinds["settled"], "when base and parents are scored"),
        (last[1, "evaluation"], last[2, "batch"], "in batch 1 is missing before it"),
        (kinds["round"], last[report, "batch"], f"the verdict on batch {report - 1} is missing"),
        (last[report, "evaluation"], kinds["end"], f"in batch {report} is missing before it"),
    ):
        forge(events[:lost] + events[lost + 1 :])
        place = f"{path}:{tells}: the journal is damaged: "
        for command in ("status", "resume", "export"):
            refuse(command, folder, says=(place, told))
    # without checksums to match, any change shows at its line, and a line that is gone at the next
    for number in (0, last[1, "evaluation"], kinds["round"]):
        text = lines[number].replace("1", "2", 1)
        path.write_text(
            "".join(f"{line}\n" for line in [*lines[:number], text, *lines[number + 1 :]])
        )
        says = (
            f"{path}:{number + 1}: the journal is damaged: this line, or lines before it, are not",
        )
        refuse("status", folder, says=says)
        path.write_text("".join(f"{line}\n" for n, line in enumerate(lines) if n != number))
        refuse("status", folder, says=(f"{path}:{number + 1}: the journal is damaged",))


def test_a_dtype_changed_after_the_start_is_refused_but_not_another_cpu(
    run_folder: Make, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` means what it meant at the start, whatever machine the search goes on."""
    from evomerge.record.events import JOURNAL
    from evomerge.run import precision
    from evomerge.run.identity import check_same, head_of
    from evomerge.run.preflight import prepare
    from evomerge.run.spec import load_run

    def job_on(*instructions: str) -> Any:
        monkeypatch.setattr(precision, "_processor", lambda: ("GenuineIntel", instructions))
        return prepare(load_run(folder))

    folder = run_folder(dtype="bfloat16")
    assert job_on("amx_bf16").scoring == "bfloat16" and job_on().scoring == "float32"
    with Journal.open(folder / JOURNAL) as journal:
        head = head_of(job_on("amx_bf16"))
        journal.append(head.plain)
    there = job_on()
    assert there.scoring == "bfloat16"
    check_same(head, there, journal.path)
    edit(folder / "run.yaml", "fitness:\n", "fitness:\n  dtype: float32\n")
    refuse("resume", folder, "--ray", "off", says=("fitness.dtype was None and is 'float32'",))


def test_a_folder_that_cannot_be_written_is_refused(
    run_folder: Make, recipe: Path, refuse: Refuse, tmp_path: Path
) -> None:
    folder = run_folder()
    (folder / "journal.jsonl").mkdir()
    refuse("search", folder, "--ray", "off", says=("journal.jsonl: the journal cannot be written",))
    below_a_file = recipe / "out"
    refuse("merge", recipe, "-o", below_a_file, says=(f"{recipe}: cannot be written",))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(
    run_folder: Make, recipe: Path, tmp_path: Path, refuse: Refuse
) -> None:
    folder = run_folder()
    folder.chmod(0o555)
    try:
        refuse("search", folder, "--ray", "off", says=("journal.jsonl: the journal cannot be",))
        refuse("merge", recipe, "-o", folder / "out", says=(f"{folder}: cannot be written",))
    finally:
        folder.chmod(0o755)


def test_there_must_be_something_to_resume_show_or_export(
    run_folder: Make, started: Path, refuse: Refuse, tmp_path: Path
) -> None:
    fresh = run_folder("fresh")
    for command in ("resume", "status", "export"):
        refuse(command, fresh, says=(f"{fresh / 'journal.jsonl'}: no such file", "evomerge search"))
    refuse("search", tmp_path / "nowhere", says=("nowhere/run.yaml: no such file",))
    refuse("export", started, says=("no merge was scored yet", "evomerge status"))
    refuse("export", started, "--unconfirmed", tmp_path / "front", says=("no merge was scored",))
    refuse("export", started, "--pareto", tmp_path / "front", says=("confirmed no front",))
    refuse("export", started, "--candidate", "3", says=("no candidate 3",))


def test_a_budget_that_known_recipes_use_up_is_refused(run_folder: Make, refuse: Refuse) -> None:
    for name, least in (("evaluations", 11), ("items", 11 * 24), ("tokens", 11 * 24)):
        folder = run_folder(name, budget={name: least})
        where = edit(folder / "run.yaml", f"{name}: {least}", f"{name}:  {least}")
        says = (f"{where}: budget.{name} is {least}", "alone take at least ")
        refuse("search", folder, "--ray", "off", says=says)


def test_a_budget_raised_after_the_start_is_refused(started: Path, refuse: Refuse) -> None:
    edit(started / "run.yaml", "evaluations: 22", "evaluations: 40")
    says = ("budget.evaluations was 22 and is 40", "another folder")
    refuse("search", started, "--ray", "off", says=says)


def test_a_space_without_freedom_is_refused(run_folder: Make, refuse: Refuse) -> None:
    space = {"methods": ["task_arithmetic"], "parameters": {"weight": 0.5}}
    refuse("search", run_folder(space=space), "--ray", "off", says=("nothing to search",))


@pytest.mark.parametrize("items", ["0", "-3"])
def test_no_items_to_reduce_to_are_refused_before_anything_is_read(
    tmp_path: Path, refuse: Refuse, items: str
) -> None:
    arguments = (
        "nowhere.yaml",
        "--models",
        "a",
        "b",
        "c",
        "-o",
        tmp_path / "out",
        "--items",
        items,
    )
    refuse("reduce", *arguments, says=(f"--items: expected at least 1, found {items}",))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["searhc", "x"], ("'searhc': no such command (did you mean 'search'?)",)),
        (
            ["search", "x", "--wrokers", "2"],
            ("--wrokers: no such option (did you mean '--workers'?)",),
        ),
        (
            ["search", "x", "--worker", "2"],
            ("--worker: no such option (did you mean '--workers'?)",),
        ),
        (["status", "x", "y"], ("y: one argument too many",)),
        (["export", "x", "--format", "json"], ("--format 'json': no such choice", "mergekit")),
        (["merge", "recipe.yaml"], ("required: -o/--output",)),
        (["status"], ("required: RUN_DIR",)),
    ],
)
def test_unknown_words_on_the_command_line_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert all(part in message for part in says)


def test_impossible_placements_are_refused(
    run_folder: Make, recipe: Path, tmp_path: Path, refuse: Refuse
) -> None:
    folder, out = run_folder(), tmp_path / "out"
    refuse("search", folder, "--workers", "0", says=("--workers: expected at least 1, found 0",))
    refuse("search", folder, "--ray", "off", "--device", "cuda:99", says=("--device cuda:99",))
    refuse(
        "merge", recipe, "-o", out, "--device", "cudda", says=("--device cudda: no such device",)
    )
    for size in ("0", "-1", "nan", "inf"):
        refuse("merge", recipe, "-o", out, f"--shard-size={size}", says=("--shard-size: expected",))


def test_an_unknown_method_is_refused(refuse: Refuse) -> None:
    refuse("methods", "tise", says=("no merge method 'tise' (did you mean 'ties'?)",))


# -- existing files and full disks ---------------------------------------------------------------


def test_an_existing_output_is_kept(recipe: Path, tmp_path: Path, refuse: Refuse) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(recipe), "-o", str(out)]) == 0
    refuse("merge", recipe, "-o", out, says=(f"{out}: exists already", "--force"))
    edit(recipe, "method: linear", "method: task_arithmetic")
    before = (out / "model.safetensors").read_bytes()
    assert main(["merge", str(recipe), "-o", str(out), "--force"]) == 0
    assert (out / "model.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yaml"]


def test_force_replaces_models_only_and_no_parent(
    parent: Path, family: dict[str, Path], tmp_path: Path, refuse: Refuse
) -> None:
    content = {
        "base": str(family["base"]),
        "models": {"sea": str(parent)},
        "groups": [{"method": "slerp"}],
    }
    recipe = write(tmp_path / "recipe.yaml", content)
    refuse("merge", recipe, "-o", parent, "--force", says=("is a model of the recipe",))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("precious")
    refuse("merge", recipe, "-o", tmp_path / "thesis", "--force", says=("holds no model",))
    refuse("merge", recipe, "-o", recipe, "--force", says=("holds no model",))


FULL = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from evomerge.cli import main
sys.exit(main(sys.argv[2:]))
"""


def run_with_full_disk(limit: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A process in which no file grows beyond ``limit`` bytes: writes fail as on a full disk."""
    return subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("room", [100, 30_000])
def test_a_disk_that_fills_during_a_merge_keeps_the_old_output(
    recipe: Path, tmp_path: Path, room: int
) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(recipe), "-o", str(out)]) == 0
    before = tree(tmp_path)
    done = run_with_full_disk(room, "merge", recipe, "-o", out, "--force")
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes")
def test_a_disk_that_fills_during_a_search_costs_nothing(run_folder: Make) -> None:
    from evomerge import search
    from evomerge.record import journal

    undisturbed, folder = run_folder("undisturbed"), run_folder("full")
    expected = search(undisturbed).table
    size = (undisturbed / "journal.jsonl").stat().st_size
    done = run_with_full_disk(size // 2, "search", folder, "--ray", "off")
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr and "resume" in done.stderr
    assert "Traceback" not in done.stderr
    kept = journal.read(folder / "journal.jsonl")
    assert 0 < len(kept) < len(journal.read(undisturbed / "journal.jsonl"))
    assert search(folder).table == expected


def test_a_disk_that_is_full_at_the_very_end_of_a_search_costs_nothing(
    run_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """best.yaml is written after the last event."""
    from evomerge import search

    folder = run_folder("full")
    (folder / "best.yaml").mkdir()
    (folder / "best.yaml" / "file").touch()
    assert main(["search", str(folder), "--ray", "off", "--quiet"]) == 1
    message = capsys.readouterr().err
    assert f"{folder}: the results cannot be written" in message and "resume" in message
    shutil.rmtree(folder / "best.yaml")
    assert search(folder).winner is not None
