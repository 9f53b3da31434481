"""What is copied from a model folder into another, and that no code of a folder runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.checkpoint import Checkpoint, ModelRef, copy_companions, without_local_code
from evomerge.cli import main
from evomerge.commands.code import remote_code
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import CheckpointError, Incompatible
from evomerge.run.spec import load_run


@pytest.fixture
def parent(family: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(family["sea"], tmp_path / "parent"))


def edit(path: Path, **changed: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changed}))


def merge(parent: Path, out: Path) -> int:
    recipe = out.with_suffix(".yaml")
    recipe.write_text(
        f"models: {{only: {parent}}}\ndtype: float32\ngroups: [{{method: passthrough}}]\n"
    )
    return main(["merge", str(recipe), "-o", str(out)])


LOCAL = {"AutoTokenizer": ["tokenization.Mine", None], "AutoConfig": "configuration.Mine"}
ELSEWHERE = {"AutoModel": "org/name--modeling.Theirs", "AutoTokenizer": [None, "a/b--c.D"]}


def test_no_code_is_copied_nor_named(parent: Path, tmp_path: Path) -> None:
    for name in ("tokenization.py", "configuration.py", "custom_generate/generate.py"):
        (parent / name).parent.mkdir(exist_ok=True)
        (parent / name).write_text("raise SystemExit")
    for name in ("config.json", "tokenizer_config.json"):
        edit(parent / name, auto_map=LOCAL, kept=[1, "ü"])
    before = json.loads((parent / "tokenizer_config.json").read_text())
    assert merge(parent, tmp_path / "out") == 0
    assert not list((tmp_path / "out").rglob("*.py"))
    after = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert after == {key: value for key, value in before.items() if key != "auto_map"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["kept"] == [1, "ü"] and "auto_map" not in config


def test_code_of_a_repository_keeps_its_name() -> None:
    said = {"a": 1, "auto_map": {"AutoConfig": "configuration.Mine", **ELSEWHERE}}
    assert without_local_code(said) == {"a": 1, "auto_map": ELSEWHERE}
    for local in (None, {}, ["tokenization.Mine", None], {"AutoConfig": "configuration.Mine"}):
        assert without_local_code({"auto_map": local, "b": 2}) == {"b": 2}
    old = {"auto_map": ["org/name--tokenization.Theirs", None]}
    assert without_local_code(old) == old


def test_what_is_plain_is_copied_byte_for_byte(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    odd = '{ "kept_token" :"a",\n"ü_tokens": [] }'
    (parent / "special_tokens_map.json").write_text(odd)
    copy_companions(Checkpoint.open(ModelRef(str(parent))), tmp_path / "one")
    assert (tmp_path / "one" / "special_tokens_map.json").read_text() == odd
    assert not (tmp_path / "one" / "config.json").exists()


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "chat_template.jinja", "generation_config.json"]
)
def test_a_link_out_of_the_folder_is_not_followed(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"password": "1"}')
    (parent / name).unlink(missing_ok=True)
    (parent / name).symlink_to(os.path.relpath(secret, parent))
    assert merge(parent, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert f"{parent / name}: is a link to {secret}, outside of its folder" in message
    assert not (tmp_path / "out").exists()
    assert main(["check", str(tmp_path / "out.yaml")]) == 2


def test_links_inside_a_folder_and_of_the_hubs_cache_are_followed(
    parent: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0f"
    blobs = snapshot.parents[1] / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(parent.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (parent / "merges.txt").symlink_to("tokenizer.json")
    (tmp_path / "linked").symlink_to(parent)
    for folder in (snapshot, tmp_path / "linked"):
        out = tmp_path / f"from-{folder.name}"
        assert merge(folder, out) == 0
        tokenizer = out / "tokenizer.json"
        assert tokenizer.read_bytes() == (parent / "tokenizer.json").read_bytes()
        assert not tokenizer.is_symlink()


GENERATE = """\
import pathlib
pathlib.Path({canary!r}).touch()

def generate(model, *given, **named):
    raise SystemExit("ran")
"""
ENGINE = """\
import sys
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.engines import EngineOptions
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.merging.blueprint import Blueprint
from evomerge.parents import Parents

model = Checkpoint.open(ModelRef(sys.argv[1]))
blueprint = Blueprint.of(Parents({"only": model}))
engine = HuggingFaceEngine.open(blueprint, model, EngineOptions(dtype="float32"))
print(len(engine.generate([[5, 6, 7]], until=["x"], limit=3)))
"""


def test_no_code_of_a_folder_runs(parent: Path, tmp_path: Path) -> None:
    """transformers 4.57 runs ``custom_generate/generate.py`` of a folder that it loads a model from."""
    code = GENERATE.format(canary=str(tmp_path / "canary"))
    for name in ("custom_generate/generate.py", "tokenization.py", "modeling.py"):
        (parent / name).parent.mkdir(exist_ok=True)
        (parent / name).write_text(f"{code}\nclass Mine:\n    pass\n")
    classes = {"AutoModelForCausalLM": "modeling.Mine", "AutoConfig": "modeling.Mine"}
    edit(parent / "config.json", auto_map=classes)
    edit(parent / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Mine", None]})
    command = [sys.executable, "-c", ENGINE, str(parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "AutoModelForCausalLM", "pipeline"])
def test_a_tokenizer_that_is_a_model_is_not_loaded(parent: Path, file: str, name: str) -> None:
    """transformers would load the model, in some versions with code that lies beside it."""
    from evomerge.engines.tokenizer import load_tokenizer

    edit(parent / file, tokenizer_class=name)
    model = Checkpoint.open(ModelRef(str(parent)))
    with pytest.raises(CheckpointError, match=rf"{file}: tokenizer_class: expected .*'{name}'"):
        load_tokenizer(model)


def test_an_adapter_beside_the_donor_is_not_taken_along(parent: Path) -> None:
    """transformers puts an adapter that lies beside a model's weights on another model."""
    model = Checkpoint.open(ModelRef(str(parent)))
    (parent / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    from evomerge.engines.huggingface.building import build_model
    from evomerge.merging.blueprint import Blueprint
    from evomerge.parents import Parents

    built = build_model(Blueprint.of(Parents({"only": model})), model, "float32", "cpu")
    name = "model.layers.1.mlp.up_proj.weight"
    assert dict(built.named_parameters())[name].equal(model.tensor(name))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer_config.json", {"chat_template": 7}, "chat_template: expected text or a list of named templates, found 7"),
        ("tokenizer_config.json", {"eos_token": ["</s>"]}, "eos_token: expected text or an object, found ['</s>']"),
        ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id: expected a token id or a list of token ids"),
        ("generation_config.json", {"temperature": float("nan")}, "temperature: expected a number of at least 0, found nan"),
        ("tokenizer.json", {"model": {"vocab": {"a": "b"}}}, "model.vocab: expected an object of rows by token"),
        ("tokenizer.json", {"model": {"vocab": [["a", 0.5], "b"]}}, "model.vocab: expected a list of [token, score]"),
        ("tokenizer.json", {"added_tokens": [{"id": 1}]}, "added_tokens[0].content: missing; expected text"),
        ("tokenizer.json", {"added_tokens": [{"content": "x", "id": -1}]}, "added_tokens[0].id: expected a whole number of"),
    ],
)  # fmt: skip
def test_a_companion_of_a_wrong_type_is_one_message(
    parent: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: dict[str, Any],
    says: str,
) -> None:
    edit(parent / file, **content)
    assert merge(parent, tmp_path / "out") == 2
    assert f"{parent / file}: {says}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_pipe_is_not_waited_for(parent: Path, tmp_path: Path) -> None:
    for name in ("generation_config.json", "config.json"):
        (parent / name).unlink(missing_ok=True)
        os.mkfifo(parent / name)
    with pytest.raises(
        CheckpointError, match=r"config\.json: not readable JSON: it is no plain file"
    ):
        Checkpoint.open(ModelRef(str(parent)))


def test_a_config_that_does_not_fit_the_weights_takes_no_memory(parent: Path) -> None:
    edit(parent / "config.json", intermediate_size=2**40)
    with pytest.raises(
        Incompatible, match=rf"mlp.* is stored as .*by config.json it is .*{2**40}"
    ) as found:
        Checkpoint.open(ModelRef(str(parent)))
    assert str(parent) in str(found.value)


STRANGE = {"name_or_path": "attacker/beacon", "gguf_file": "x.gguf", "tokenizer_file": None}


def test_files_of_a_tokenizer_name_no_other(parent: Path, tmp_path: Path) -> None:
    """transformers takes their keys for options of the call: where to look, and what to fetch into which folder."""
    known = load_tokenizer(Checkpoint(str(parent), parent))
    text = "one two three"
    planted = tmp_path / "planted"
    edit(parent / "special_tokens_map.json", **STRANGE, cache_dir=str(planted))
    edit(
        parent / "tokenizer_config.json",
        gguf_file="x.gguf",
        cache_dir=str(planted),
        fast_tokenizer_files=["tokenizer.5.0.0.json"],
        vocab_file="/dev/zero",
        _name_or_path=str(planted),
    )
    tokenizer = json.loads((parent / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"<unk>": 0}
    (parent / "tokenizer.5.0.0.json").write_text(json.dumps(tokenizer))
    edit(
        parent / "config.json",
        configuration_files=["config.5.0.0.json"],
        backbone="attacker/bb",
        use_timm_backbone=False,
    )
    other = json.loads((parent / "config.json").read_text())
    other |= {"tokenizer_class": "LlamaForCausalLM", "model_type": "detr"}
    (parent / "config.5.0.0.json").write_text(json.dumps(other))
    found = load_tokenizer(Checkpoint(str(parent), parent))
    assert found.encode(text) == known.encode(text) and len(found) == len(known)
    assert found.name_or_path == str(parent)
    assert not planted.exists()
    assert merge(parent, tmp_path / "out") == 0
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        said = json.loads((tmp_path / "out" / name).read_text())
        assert not {"name_or_path", "_name_or_path", "vocab_file", "gguf_file", "cache_dir"} & set(
            said
        )
        assert "fast_tokenizer_files" not in said


@pytest.mark.parametrize("name", ["AutoProcessorFast", "LlamaForCausalLM", "BertModelFast"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_what_is_no_tokenizer_is_not_loaded_as_one(parent: Path, name: str, file: str) -> None:
    """transformers leaves ``Fast`` out of a name that it does not know."""
    edit(parent / file, tokenizer_class=name, auto_map={"AutoProcessor": "a--b.C"})
    with pytest.raises(CheckpointError, match="expected a tokenizer of transformers"):
        load_tokenizer(Checkpoint(str(parent), parent))


def test_code_beside_the_tokenizer_of_an_adapter_is_listed(
    family: dict[str, Path], run_folder: Callable[..., Path], tmp_path: Path
) -> None:
    (adapter := tmp_path / "adapter").mkdir()
    edit(adapter / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Evil"]})
    (adapter / "evil.py").write_text("class Evil: ...")
    folder = run_folder()
    content = config.read(folder / "run.yaml").plain
    content["trust_remote_code"] = True
    content["models"]["sources"]["chat"] = f"{family['chat']}+{adapter}"
    (folder / "run.yaml").write_text(config.dump(content))
    found = remote_code(load_run(folder))
    assert any("evil.Evil" in code.definition for code in found)


def test_a_tokenizer_of_code_is_told(parent: Path) -> None:
    auto = {"AutoTokenizer": ["evil.Evil", None]}
    edit(parent / "tokenizer_config.json", tokenizer_class="Evil", auto_map=auto)
    with pytest.raises(CheckpointError, match="trust_remote_code: true"):
        load_tokenizer(Checkpoint(str(parent), parent))


def test_a_vocabulary_does_not_lie_elsewhere(parent: Path, tmp_path: Path) -> None:
    known = load_tokenizer(Checkpoint(str(parent), parent))
    for name in ("v.json", "m.txt"):
        os.mkfifo(tmp_path / name)
    edit(parent / "tokenizer_config.json", vocab=f"{tmp_path}/v.json", merges=f"{tmp_path}/m.txt")
    assert len(load_tokenizer(Checkpoint(str(parent), parent))) == len(known)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_lies_beside_an_output_may_lead_elsewhere(
    parent: Path, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    for name in ("old", "new"):
        (victim / name).mkdir(parents=True)
    planted = tmp_path / ".out.partial-abc"
    planted.symlink_to(victim) if kind == "link" else os.mkfifo(planted)
    assert merge(parent, tmp_path / "out") == 0
    assert sorted(path.name for path in victim.iterdir()) == ["new", "old"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"one two {n} three"}) + "\n" for n in range(8)))
    return path


def refused(model: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The last line that ``measure`` and ``score`` say of a model."""
    fitness = texts.with_name("fitness.yaml")
    fitness.write_text(f"objectives: {{a: {{text: {texts}}}}}\n")
    said = []
    for command in (
        ["measure", str(model), "--statistic", "fisher", "--data", str(texts)],
        ["score", str(model), "--fitness", str(fitness), "--split", "search"],
    ):
        assert main(command) in (1, 2)
        said.append(capsys.readouterr().err.strip().splitlines()[-1])
    return said


def test_a_tokenizer_that_panics_ends_in_one_line(
    parent: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = {"type": "Replace", "pattern": {"String": ""}, "content": "ab"}
    edit(parent / "tokenizer.json", normalizer=nothing)
    for line in refused(parent, texts, capsys):
        assert line.startswith("evomerge: a library gave up (index out of bounds"), line


def test_a_tokenizer_of_another_model_ends_in_one_line(
    parent: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = json.loads((parent / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: id + 10_000 for token, id in vocabulary.items()}
    (parent / "tokenizer.json").write_text(json.dumps(tokenizer))
    measured, scored = refused(parent, texts, capsys)
    assert "IndexError" in measured and "do its tokenizer and its weights belong" in measured
    assert "rows: they do not belong together" in scored
