"""``evomerge rounds``: branches trained by a command, merged by a search, and gone on from."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge import Recipe, config
from evomerge.checkpoint import EMBEDDED, Checkpoint, ModelRef
from evomerge.checkpoint.contents import file_digest
from evomerge.cli import main
from evomerge.cli.parser import make_parser
from evomerge.commands.check import check
from evomerge.commands.rounds import LINEAGE, LOCK, rounds
from evomerge.errors import ConfigError, InputError, RunError
from evomerge.record.record import Record
from evomerge.run.rounds import PLACEHOLDERS, load_rounds

# What stands for training where it need not be any: a copy of the model with one tensor changed, or an adapter.
TRAIN = """
import json, os, shutil, signal, sys, time
import numpy as np
from safetensors.numpy import save_file
model, branch, out = sys.argv[1:4]
mode = open("mode").read() if os.path.exists("mode") else ""
with open("calls", "a") as calls:
    calls.write(f"{os.environ['EVOMERGE_ROUND']} {branch}\\n")
assert [os.environ[f"EVOMERGE_{k}"] for k in ("MODEL", "BRANCH", "OUT")] == [model, branch, out]
if branch == "sea" and mode == "fail":
    print("no such data \\033[31m")
    sys.exit(3)
if branch == "sea" and mode == "nothing":
    sys.exit(0)
if branch == "sea" and mode in ("stop", "kill"):
    os.makedirs(out, exist_ok=True)
    open("pid", "w").write(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGINT if mode == "stop" else signal.SIGKILL)
    time.sleep(600)
random = np.random.default_rng([len(model), ord(branch[0])])
content = bytearray(open(f"{model}/model.safetensors", "rb").read())
start = 8 + int.from_bytes(content[:8], "little")
head = json.loads(content[8:start])
if branch == "words":
    shutil.copytree(model, out, dirs_exist_ok=True)
    tensor = head["model.layers.0.mlp.down_proj.weight"]
    begin, end = (start + at for at in tensor["data_offsets"])
    wide = {"BF16": "<u2", "F32": "<u4"}[tensor["dtype"]]
    bits = np.frombuffer(content[begin:end], wide).copy()
    bits ^= (1 << random.integers(0, {"<u2": 7, "<u4": 23}[wide], bits.size)).astype(wide)  # of the mantissa
    content[begin:end] = bits.tobytes()
    open(f"{out}/model.safetensors", "wb").write(content)
else:
    os.makedirs(out, exist_ok=True)
    shape = head["model.layers.1.self_attn.q_proj.weight"]["shape"]
    path = "base_model.model.model.layers.1.self_attn.q_proj"
    draw = lambda *size: (0.1 * random.standard_normal(size)).astype(np.float32)
    factors = {f"{path}.lora_A.weight": draw(2, shape[1]), f"{path}.lora_B.weight": draw(shape[0], 2)}
    save_file(factors, f"{out}/adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    json.dump(said, open(f"{out}/adapter_config.json", "w"))
"""

# What is training, of all weights on a few lines of its branch.
REALLY = """
import sys
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
model_folder, data, out = sys.argv[1:4]
torch.set_num_threads(1)
model = LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder)
lines = [line for line in open(data).read().splitlines() if line][:8]
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for _ in range(4):
    ids = [tokenizer(line, return_tensors="pt").input_ids for line in lines]
    loss = sum(model(each, labels=each).loss for each in ids) / len(ids)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
model.save_pretrained(out); tokenizer.save_pretrained(out)
"""

WORDS = "The house has a door. The river is long. Water is cold here."
SEA = "Rumah ini punya pintu. Sungai itu panjang sekali. Air di sini dingin."


def job(folder: Path, script: str = TRAIN, **changes: Any) -> Path:
    """A folder with a rounds.yaml, a training command, and two texts."""
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(script)
    for name, text in (("words", WORDS), ("sea", SEA)):
        passages = [f"{text} {n}" for n in range(30)]
        (folder / f"{name}.txt").write_text("\n\n".join(passages))
    content = {
        "from": "embedded:base",
        "branches": ["words", "sea"],
        "train": [sys.executable, "train.py", "{model}", "{branch}", "{out}"],
        "rounds": 1,
        "search": {
            "space": {"methods": ["linear"], "weights": "simplex", "start": ["uniform"]},
            "fitness": {
                "objectives": {
                    "en": {"text": "words.txt", "scale": 0.1},
                    "id": {"text": "sea.txt", "scale": 0.1},
                },
                "items": {
                    **{"search": 6, "select": 6, "report": 6, "candidate": 4},
                    "shares": {"probe": 0.1, "search": 0.3, "select": 0.3, "report": 0.3},
                },
            },
            "optimizer": {"name": "random", "population": 2},
            "budget": {"evaluations": 6},
            "dtype": "float32",
        },
        **changes,
    }
    (folder / "rounds.yaml").write_text(config.dump(content))
    return folder


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rounds that were one, and then two."""
    folder = job(tmp_path_factory.mktemp("rounds") / "mine")
    first = rounds(folder)
    assert first.champion == folder / "round-1" / "champion"
    content = config.read(folder / "rounds.yaml").plain
    (folder / "rounds.yaml").write_text(config.dump({**content, "rounds": 2}))
    said: list[str] = []
    second = rounds(folder, say=said.append)
    assert said[0] == "round 1 of 2: done"
    assert second.champion == folder / "round-2" / "champion"
    return folder


def test_branches_are_trained_merged_and_gone_on_from(done: Path) -> None:
    assert calls(done) == ["1 words", "1 sea", "2 words", "2 sea"]
    run = config.read(done / "round-2" / "search" / "run.yaml").plain
    assert run["models"] == {
        "base": "../../round-1/champion",
        "sources": {
            "words": "../branches/words",
            "sea": "../../round-1/champion+../branches/sea",
        },
    }
    assert run["fitness"]["objectives"]["id"]["text"] == "../../sea.txt"
    record = Record(done / "round-2" / "search")
    labels = [row.label for row in record.table.rows]
    assert labels[:3] == ["base", "words", "sea"] and labels[-1].startswith("winner: ")
    champion = Checkpoint.outline(ModelRef(str(done / "round-2" / "champion")))
    assert champion.architecture == Checkpoint.outline(ModelRef("embedded:base")).architecture
    kept = Recipe.load(done / "round-2" / "champion" / "evomerge.yaml")
    assert kept.digest == record.recipe(record.history.winner).digest


def test_what_came_of_what_is_written_down(done: Path) -> None:
    found = config.read(done / LINEAGE).plain
    assert found["start"] == {"model": str(EMBEDDED / "base")}
    one, two = found["rounds"]
    assert (one["trained_from"], one["champion"]) == (str(EMBEDDED / "base"), "round-1/champion")
    assert two["trained_from"] == two["base"] == "round-1/champion"
    assert [each["model"] for each in two["branches"].values()] == [
        "round-2/branches/words",
        "round-1/champion+round-2/branches/sea",
    ]
    weights = Checkpoint.outline(ModelRef(str(done / "round-1" / "branches" / "words")))
    assert one["branches"]["words"]["sha256"] == weights.fingerprint
    assert one["winner"]["score"].keys() >= {"value", "low", "high"}


def test_what_is_whole_stays_whole(done: Path) -> None:
    before = files(done)
    rounds(done / "rounds.yaml")
    assert files(done) == before


def test_other_rounds_in_the_same_folder_are_refused(done: Path) -> None:
    file = done / "rounds.yaml"
    text = file.read_text()
    try:
        file.write_text(text.replace("population: 2", "population: 3"))
        with pytest.raises(InputError, match="is not what these rounds were begun with"):
            rounds(done)
    finally:
        file.write_text(text)


def test_rounds_start_from_the_winner_of_a_search(done: Path, tmp_path: Path) -> None:
    folder = job(tmp_path / "next", **{"from": str(done / "round-1" / "search"), "base": "first"})
    (folder / "mode").write_text("fail")
    assert f"starts from the winner of {done / 'round-1' / 'search'}" in check(folder)
    with pytest.raises(RunError):
        rounds(folder)
    weights = [
        each / "model.safetensors" for each in (folder / "start", done / "round-1" / "champion")
    ]
    assert file_digest(weights[0]) == file_digest(weights[1])
    spec = load_rounds(folder)
    assert spec.command(1, "sea", "{out}", Path("x"))[2:] == ["{out}", "sea", "x"], "filled in once"
    told = config.read(folder / LINEAGE).plain["start"]
    assert told["run"] == str(done / "round-1" / "search") and told["model"] == "start"


def test_a_command_that_fails_is_told_and_called_again_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = job(tmp_path / "mine")
    (folder / "mode").write_text("fail")
    assert main(["rounds", str(folder), "--ray", "off"]) == 1
    told = capsys.readouterr().err
    assert (
        "round 1, branch sea: " in told
        and "ended with status 3; it said last: no such data" in told
    )
    assert "\x1b" not in told, "what a command says is shown, not obeyed"
    assert "\x1b" in (folder / "round-1/branches/sea.log").read_text()
    (folder / "mode").write_text("nothing")
    with pytest.raises(RunError, match="ended well, but left no model or adapter in"):
        rounds(folder)
    assert not (folder / "round-1" / "branches" / "sea").exists()
    assert calls(folder) == ["1 words", "1 sea", "1 sea"]


def test_a_stop_stops_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = job(tmp_path / "mine")
    (folder / "mode").write_text("stop")
    with pytest.raises(KeyboardInterrupt):  # the command asks for it, as Ctrl-C does
        rounds(folder)
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)
    assert (folder / "round-1" / "branches" / "words").is_dir()
    assert (folder / "round-1" / "branches" / "sea.unfinished").is_dir()


def test_a_command_that_outlives_a_killed_call_keeps_others_away(tmp_path: Path) -> None:
    folder = job(tmp_path / "mine")
    (folder / "mode").write_text("kill")
    words = [sys.executable, "-m", "evomerge", "rounds", str(folder), "--ray", "off", "--quiet"]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    pid = int((folder / "pid").read_text())
    try:
        with pytest.raises(InputError, match=f"under way: .*holds {LOCK}"):
            rounds(folder)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert calls(folder) == ["1 words", "1 sea"]


def test_check_shows_every_command_and_executes_none(tmp_path: Path) -> None:
    folder = job(tmp_path / "mine", rounds=4)
    told = check(folder / "rounds.yaml")
    base = EMBEDDED / "base"
    words = [sys.executable, "train.py", str(base), "sea", str(folder / "round-1/branches/sea")]
    assert f"round 1 executes in {folder}: {shlex.join(words)}" in told
    words[2], words[4] = (
        str(folder / f"round-{name}") for name in ("1/champion", "2/branches/sea")
    )
    assert f"round 2 executes in {folder}: {shlex.join(words)}" in told
    assert "and so on, for 4 rounds" in told
    assert not calls(folder) and not (folder / LINEAGE).exists() and not (folder / LOCK).exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("from"), "from: missing"),
        (lambda c: c.update(branches=[]), "branches: expected at least one name"),
        (lambda c: c.update(branches=["a", "a"]), "branches: 'a' stands twice"),
        (lambda c: c.update(branches=["../a"]), "branches: '../a' names no branch"),
        (lambda c: c.update(train=["x", "{modl}"]), "train: unknown placeholder {modl}"),
        (lambda c: c.update(rounds=0), "rounds: expected"),
        (lambda c: c.update(base="second"), "base: expected one of 'champion', 'first'"),
        (lambda c: c["search"].update(models={"base": "x"}), "search.models.base: unexpected"),
        (lambda c: c["search"].update(optimiser={}), "optimiser: unknown key (did you mean 'optimizer'?)"),
        (lambda c: c["search"].pop("space"), "space: missing"),
        (lambda c: c["search"]["fitness"]["objectives"]["en"].update(floor="9% of sae"), "'sae'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_its_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    folder = job(tmp_path / "mine")
    content = json.loads(json.dumps(config.read(folder / "rounds.yaml").plain))
    change(content)
    (folder / "rounds.yaml").write_text(config.dump(content))
    with pytest.raises(ConfigError) as error:
        check(folder)
    [problem] = error.value.problems
    assert told in problem and problem.startswith(f"{folder / 'rounds.yaml'}:")


def test_what_would_fail_after_hours_is_refused_at_once(tmp_path: Path) -> None:
    absent = job(tmp_path / "absent")
    content = config.read(absent / "rounds.yaml").plain
    for change, told in (
        ({"train": ["no-such-program"]}, "'no-such-program' is no command"),
        ({"from": "no/such/model/here"}, "no/such/model/here"),
        ({"from": "embedded:base+adapter"}, "rounds start from one model"),
    ):
        (absent / "rounds.yaml").write_text(config.dump({**content, **change}))
        with pytest.raises(InputError, match=told):
            rounds(absent)
        assert not (absent / LINEAGE).exists()


def test_training_moves_a_model_and_its_merge_is_gone_on_from(tmp_path: Path) -> None:
    """Both branches learn their text, and the merge has some of each."""
    train = [sys.executable, "train.py", "{model}", "{branch}.txt", "{out}"]
    folder = job(tmp_path / "mine", REALLY, train=train)
    table = rounds(folder).result.table
    base, words, sea, *_, winner = table.rows
    for name, branch in (("en", words), ("id", sea)):
        assert branch.objectives[name].value < base.objectives[name].value - 0.1
        assert winner.objectives[name].value < base.objectives[name].value


def test_the_document_shows_rounds_and_commands_that_are(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    text = (root / "docs" / "rounds.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    for name in ("search_spaces", "fitness"):
        (tmp_path / name).symlink_to(root / name)
    (folder / "rounds.yaml").write_text(block)
    spec = load_rounds(folder)
    assert spec.command(2, "code", "M", Path("O"))[3:] == [
        "M",
        "--data",
        "data/2/code.jsonl",
        "--out",
        "O",
    ]
    for line in re.findall(r"^\$ evomerge (.*)", text, re.M):
        assert make_parser().parse_args(shlex.split(line, comments=True))
    shown = set(re.findall(r"^\| `{(\w+)}`", text, re.M))
    assert shown == set(PLACEHOLDERS)
