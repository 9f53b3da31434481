"""What a task's data hold leads nowhere: not out of a folder by an archive, not to another machine by a name."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.errors import InputError
from evomerge.scorers.lm_eval.loading import load

TASK = """\
task: taken
dataset_path: {loader}
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "a"
metric_list: [{{metric: exact_match}}]
"""
ROWS = b'{"q": "a", "a": "b"}\n' * 20


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def taken(tasks: Path, data: Path, loader: str = "json") -> int:
    """How many documents a task with these data has."""
    (tasks / "task.yaml").write_text(TASK.format(loader=loader, data=data))
    return len(load("taken", (tasks,), {}).docs)


def packed(path: Path, *members: tuple[str, bytes, str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, kind, target, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def file(name: str, content: bytes = ROWS) -> tuple[str, bytes, str, bytes]:
    return name, tarfile.REGTYPE, "", content


@pytest.mark.parametrize("name", ["data.tar", "data.jsonl"])
def test_an_archive_does_not_write_through_its_links(
    tasks: Path, tmp_path: Path, name: str
) -> None:
    """A link into a folder that is another link by the time it is followed; then a hard link through it."""
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    archive = packed(
        tmp_path / name,
        file("dir/ok.jsonl"),
        ("s", tarfile.SYMTYPE, "a/" * 20 + "../" * 20, b""),
        ("a", tarfile.SYMTYPE, ".", b""),
        ("dir/h.jsonl", tarfile.LNKTYPE, f"s{kept}", b""),
        file("dir/h.jsonl"),
    )
    with pytest.raises(
        InputError, match="'s' in it is a link or a device; only files are unpacked"
    ):
        taken(tasks, archive)
    assert kept.read_text() == "as it was"


def test_archives_of_files_are_unpacked(tasks: Path, tmp_path: Path) -> None:
    assert taken(tasks, packed(tmp_path / "data.tar", file("one.jsonl"), file("two.jsonl"))) == 40
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("one.jsonl", ROWS)
    (tasks / "task.yaml").unlink()
    assert taken(tasks, tmp_path / "data.zip") == 20


def test_a_name_in_an_archive_is_no_address(
    tasks: Path, tmp_path: Path, server: socket.socket
) -> None:
    address = f"http://127.0.0.1:{server.getsockname()[1]}/w.zip"
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("ok.json", ROWS)
        archive.writestr(
            "refs.json", json.dumps({"version": 1, "refs": {"": [address], "w": [address]}})
        )
        archive.writestr("z::reference::zip:/refs.json/f", "x")
    with pytest.raises(InputError, match="'reference', which the task does not say"):
        taken(tasks, tmp_path / "data.zip", "text")
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_file_s_name_is_no_address(tasks: Path, tmp_path: Path, server: socket.socket) -> None:
    address = f"http://127.0.0.1:{server.getsockname()[1]}/w.zip"
    folder = tmp_path / "data"
    folder.mkdir()
    refs = json.dumps({"version": 1, "refs": {"": [address], "reference.x": [address]}})
    (folder / "a.gz").write_text(refs)
    (folder / "a.gz::reference.x").write_text("x")
    with pytest.raises(InputError, match="'reference', which the task does not say"):
        taken(tasks, folder / "*.x", "text")
    with pytest.raises(BlockingIOError):
        server.accept()
