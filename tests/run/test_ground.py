"""What a search rests on, changed while it runs, or another thing on another machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.search import search
from evomerge.errors import InputError, RunError
from evomerge.pool import Pool, WorkerSpec
from evomerge.pool.serial import SerialPool
from evomerge.testing.listening import After
from evomerge.testing.trajectory import Trajectory, trajectory
from evomerge.worker import start

Job = Callable[[str], Path]

CODE = "SIGNS = 1\n\n\ndef question(doc):\n    return doc['question'] + '='\n"


@pytest.fixture(scope="module")
def job(
    write_job: Callable[..., Path],
    small: dict[str, Any],
    family: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Job:
    """Makes runs whose models, task, code and texts lie in their folders."""

    def make(name: str) -> Path:
        models = {"base": "base", "sources": {"chat": "chat", "sea": "sea"}, "tokenizer": "chat"}
        folder = write_job(tmp_path_factory.mktemp(name) / name, **{**small, "models": models})
        for model in ("base", "chat", "sea"):
            shutil.copytree(family[model], folder / model)
        (folder / "sums_code.py").write_text(CODE)
        task = folder / "sums.yaml"
        asked = 'doc_to_text: "{{question}}="'
        assert asked in task.read_text()
        task.write_text(
            task.read_text().replace(asked, "doc_to_text: !function sums_code.question")
        )
        return folder

    return make


def other(file: Path) -> None:
    """Let ``file`` hold something else, of the same size and time."""
    content, found = bytearray(file.read_bytes()), file.stat()
    last = max(at for at, byte in enumerate(content) if chr(byte).isdigit())
    content[last] ^= 1
    beside = file.with_name("beside")
    beside.write_bytes(content)
    beside.replace(file)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def copied(file: Path) -> None:
    """Let another file hold the same."""
    shutil.copy(file, file.with_name("beside"))
    file.with_name("beside").replace(file)


@pytest.fixture(scope="module")
def undisturbed(job: Job) -> Trajectory:
    folder = job("undisturbed")
    search(folder)
    return trajectory(folder)


def test_what_changes_in_mid_run_stops_it_until_it_is_restored(
    job: Job, undisturbed: Trajectory
) -> None:
    """One after the other, in one search: weights, tokenizer, task, data, code."""
    folder = job("changed")
    files = {
        "sea": folder / "sea" / "model.safetensors",
        "chat": folder / "chat" / "tokenizer.json",
        "sums": folder / "sums.yaml",
        "texts.jsonl": folder / "texts.jsonl",
    }
    for whose, file in files.items():
        kept = file.with_name("kept")
        shutil.copy(file, kept)
        with pytest.raises(RunError) as stopped:
            search(folder, listener=After(2, lambda file=file: other(file)))
        message = str(stopped.value)
        # a worker may be the first that sees other weights: with every candidate it looks at these
        assert message.startswith((f"{whose}: {file}", f"{folder / whose}: {file}"))
        assert "bring back" in message and "\n" not in message
        kept.replace(file)
    search(folder)
    assert trajectory(folder)[1] == undisturbed[1]


def test_what_is_touched_or_copied_in_mid_run_is_what_it_was(
    job: Job, undisturbed: Trajectory
) -> None:
    folder = job("touched")

    def touch() -> None:
        for file in [*folder.glob("*/*"), *folder.glob("sums*"), folder / "texts.jsonl"]:
            if file.is_file():
                os.utime(file)
                copied(file)

    search(folder, listener=After(4, touch))
    assert trajectory(folder)[1] == undisturbed[1]


def argument_of(folder: Path) -> Mapping[str, Any]:
    """How a search builds its workers."""
    found = []

    def make(spec: WorkerSpec) -> Pool:
        found.append(spec.argument)
        return SerialPool(spec)

    search(folder, make)
    return json.loads(json.dumps(found[-1]))  # type: ignore[no-any-return]


def test_a_worker_that_starts_later_refuses_what_the_driver_did_not_see(job: Job) -> None:
    folder = job("later")
    argument, here = argument_of(folder), socket.gethostname()
    files = {
        "sea/model.safetensors": "sea",
        "base/tokenizer.json": "base",
        "sums_code.py": "sums",
        "sums.jsonl": "sums",
        "texts.jsonl": "texts.jsonl",
    }
    for name, whose in files.items():
        file = folder / name
        shutil.copy(file, folder / "kept")
        other(file)
        with pytest.raises(InputError) as refused:
            start(argument)
        told = f"{whose} on {here}: {file}: this file holds something else. It is not what the"
        assert str(refused.value).startswith(told)
        (folder / "kept").replace(file)
    added = folder / "chat" / "additional_chat_templates" / "tools.jinja"
    added.parent.mkdir()
    added.write_text("{{ messages }}")
    with pytest.raises(InputError, match=rf"chat on .*{added}: this file was not there"):
        start(argument)
    added.unlink()
    start(argument)


TWICE = """
import json, sys
from evomerge.errors import InputError
from evomerge.worker import start

argument = json.load(open(sys.argv[1]))
start(argument)
print("the same")
with open(sys.argv[2], "r+b") as file:
    file.seek(-1, 2)
    file.write(b"!")
try:
    start(argument)
except InputError as error:
    print(error)
"""
ELSEWHERE = (
    'hostname other-node && mount --bind "$0" "$1" && shift && exec "$@"'  # of this process alone
)


def test_a_node_whose_folder_holds_another_model_is_named(job: Job, tmp_path: Path) -> None:
    """A worker that sees other folders under the same names, in a mount namespace of its own."""
    if subprocess.run(["unshare", "-m", "-u", "true"], capture_output=True).returncode:
        pytest.skip("no mount can be made here")
    folder = job("here")
    argument = tmp_path / "argument.json"
    argument.write_text(json.dumps(argument_of(folder)))
    shutil.copytree(folder / "sea", there := tmp_path / "there")
    file = there / "model.safetensors"
    worker = [sys.executable, "-c", TWICE, argument, file]
    path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    done = subprocess.run(
        ["unshare", "-m", "-u", "sh", "-c", ELSEWHERE, there, folder / "sea", *worker],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    same, refused = done.stdout.splitlines()
    assert same == "the same", "a copy has other inodes and times, and holds the same"
    seen = folder / "sea" / "model.safetensors"
    assert refused.startswith(f"sea on other-node: {seen}: this file holds something else")
