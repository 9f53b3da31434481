"""`evomerge merge` as a process: killed, crowded, out of room, fed a broken parent."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge import config
from evomerge.testing.models import tiny_family

KILLS = int(os.environ.get("EVOMERGE_TEST_KILLS", "3"))


def digests(folder: Path) -> dict[str, str]:
    """Every file of ``folder`` and the hash of its content."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def write_recipe(path: Path, family: dict[str, Path], weight: float = 0.5) -> Path:
    content = {
        "base": str(family["base"]),
        "models": {name: str(folder) for name, folder in family.items() if name != "base"},
        "dtype": "bfloat16",
        "groups": [{"method": "task_arithmetic", "weight": weight}],
    }
    path.write_text(config.dump(content), encoding="utf-8")
    return path


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "evomerge", "merge", str(recipe), "-o", str(out), *more]


def start(recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(recipe, out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(recipe: Path, out: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, out, *more), capture_output=True, text=True, timeout=300, **options
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a merge that failed: one line, nothing else."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("evomerge: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


# -- killed --------------------------------------------------------------------------------------

# Forks a `merge` for each system call that it makes on files and kills it right before that call,
# until one finishes. Prints each time what is at the target, and what is there once the leftovers
# are cleared away, as every merge begins by doing.
KILLED_EVERYWHERE = """\
import hashlib, json, os, signal, sys
from pathlib import Path
from evomerge import methods
from evomerge.report import progress
from evomerge.checkpoint.writing import clear_leftovers
from evomerge.cli import main
from evomerge.merging import merge
import rich.progress, safetensors.torch, torch
methods.names()

out, arguments = Path(sys.argv[1]), sys.argv[2:]
CALLS = ("mkdir", "pwrite", "posix_fallocate", "fsync", "rename", "unlink", "rmdir")

def run(moment):
    calls = 0
    def dying(call):
        def counted(*args, **options):
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)
        return counted
    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    os._exit(main(arguments))

def state():
    if not out.exists():
        return None
    weights = (out / "model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), len(os.listdir(out))

moment, status = 0, -signal.SIGKILL
while status == -signal.SIGKILL:
    moment += 1
    child = os.fork()
    if child == 0:
        run(moment)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = state()
    clear_leftovers(out)
    print(json.dumps([status, found, state(), os.listdir(out.parent)]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("replacing", [False, True])
def test_a_merge_killed_before_any_of_its_system_calls_breaks_nothing(
    tmp_path: Path, replacing: bool
) -> None:
    family = tiny_family(tmp_path / "family", num_hidden_layers=1)
    recipe, out = write_recipe(tmp_path / "recipe.yaml", family), tmp_path / "here" / "out"
    fine = tmp_path / "undisturbed" / "out"  # the card of a model bears the folder's name
    assert run(recipe, fine).returncode == 0
    new: Any = [digests(fine)["model.safetensors"], len(os.listdir(fine))]
    old: Any = None
    out.parent.mkdir()
    if replacing:
        shutil.copytree(family["base"], out)
        old = [digests(out)["model.safetensors"], len(os.listdir(out))]
    arguments = ["merge", str(recipe), "-o", str(out), *(["--force"] if replacing else [])]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(out), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.returncode == 0 and len(outcomes) > 20, done.stderr
    for _, left, after, beside in outcomes:
        assert left in (old, new, None) and after in (old, new)
        assert beside == (["out"] if after else [])
    # the place of the old model is empty between two renames, and never else
    assert not replacing or [left for _, left, *_ in outcomes].count(None) == 1
    # a merge killed after the rename is done; without --force, the next is refused
    status, left, *_ = outcomes[-1]
    assert left == new and status == (0 if replacing else 2)
    assert digests(out) == digests(fine)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A family whose merge takes a moment: 30 MB each."""
    return tiny_family(
        tmp_path_factory.mktemp("large"),
        hidden_size=320,
        intermediate_size=960,
        num_hidden_layers=6,
    )


@pytest.mark.slow
def test_merges_killed_at_random_times_break_nothing(
    large: dict[str, Path], tmp_path: Path
) -> None:
    recipe, out = write_recipe(tmp_path / "recipe.yaml", large), tmp_path / "here" / "out"
    out.parent.mkdir()

    def at_work() -> bool:
        return any(name.startswith(".out.partial-") for name in os.listdir(out.parent))

    process = start(recipe, out, "--shard-size", "0.01")
    wait_until(at_work, process)
    began = time.monotonic()
    assert process.wait(60) == 0
    lasted = time.monotonic() - began
    whole = digests(out)
    draw = random.Random(0)
    for kill in range(KILLS):
        if kill % 2:
            shutil.rmtree(out, ignore_errors=True)
        process = start(recipe, out, "--shard-size", "0.01", "--force")
        wait_until(at_work, process)
        time.sleep(draw.uniform(0, lasted))
        process.kill()
        process.communicate()
        assert not out.exists() or digests(out) == whole
    assert run(recipe, out, "--shard-size", "0.01", "--force").returncode == 0
    assert digests(out) == whole
    assert os.listdir(out.parent) == ["out"]


def test_two_merges_to_one_place_leave_each_other_alone(
    large: dict[str, Path], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    slow = start(write_recipe(tmp_path / "slow.yaml", large, 0.25), here / "out")
    try:
        wait_until(lambda: any(here.glob(".*/new")), slow)  # made once the folder is locked
        slow.send_signal(signal.SIGSTOP)
        (partial,) = os.listdir(here)
        done = run(write_recipe(tmp_path / "quick.yaml", large, 0.75), here / "out")
        assert done.returncode == 0, done.stderr
        assert sorted(os.listdir(here)) == [partial, "out"]
        won = digests(here / "out")
        slow.send_signal(signal.SIGCONT)
        _, said = slow.communicate(timeout=120)
    finally:
        slow.kill()
    assert slow.returncode == 2 and "exists already" in said and "Traceback" not in said
    assert os.listdir(here) == ["out"] and digests(here / "out") == won


# -- no room, broken parents ---------------------------------------------------------------------


@pytest.fixture
def place(family: dict[str, Path], tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A recipe, and a model that must not be lost, alone in its folder."""
    recipe, out = write_recipe(tmp_path / "recipe.yaml", family), tmp_path / "here" / "out"
    shutil.copytree(family["base"], out)
    before = digests(out)
    yield recipe, out
    assert os.listdir(out.parent) == ["out"] and digests(out) == before


@pytest.mark.parametrize("room", [100, 30_000, 80_000])
def test_a_full_disk_is_said_in_one_line(place: tuple[Path, Path], room: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    done = run(*place, "--force", preexec_fn=limit)
    assert done.returncode == 1
    said = one_line(done)
    assert str(place[1]) in said and "the disk is full" in said and "run again" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_parent_is_said_in_one_line(
    place: tuple[Path, Path], family: dict[str, Path], tmp_path: Path, value: float
) -> None:
    broken = Path(shutil.copytree(family["sea"], tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    name = "model.layers.2.self_attn.k_proj.weight"
    weights[name][1, 2] = value
    save_file(weights, broken / "model.safetensors")
    recipe = write_recipe(tmp_path / "broken.yaml", {**family, "sea": broken})
    done = run(recipe, place[1], "--force")
    assert done.returncode == 2
    said = one_line(done)
    assert f"{name} holds 1 NaN or infinite" in said and str(broken) in said


# -- whole ---------------------------------------------------------------------------------------


def test_shards_hold_what_one_file_holds(large: dict[str, Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", large)
    assert run(recipe, tmp_path / "one").returncode == 0
    assert run(recipe, tmp_path / "many", "--shard-size", "0.002").returncode == 0
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 5
    one = load_file(tmp_path / "one" / "model.safetensors")
    many = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
