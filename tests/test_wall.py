"""A command that only looks does nothing else, whatever a library would do with what it is given."""

from __future__ import annotations

import ctypes
import os
import socket
import sqlite3
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from evomerge.cli import wall
from evomerge.cli.wall import Refused, around
from evomerge.methods.kernel import compiler


def looking(**options: Any) -> Namespace:
    return Namespace(**{"looks": True, "makes": (), **options})


def imported(file: Path) -> None:
    spec = spec_from_file_location("brought_along", file)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(module_from_spec(spec))


ACTS: dict[str, Callable[[Path], object]] = {
    "import": lambda folder: imported(folder / "code.py"),
    "library": lambda folder: imported(folder / "code.so"),
    "system": lambda folder: os.system(f"touch {folder / 'new'}"),
    "spawn": lambda folder: os.posix_spawn("/bin/touch", ["touch", str(folder / "new")], {}),
    "exec": lambda folder: os.execv("/bin/touch", ["touch", str(folder / "new")]),
    "input": lambda folder: input("[y/N]"),
    "write": lambda folder: (folder / "kept").write_text("other"),
    "append": lambda folder: (folder / "kept").open("a"),
    "make": lambda folder: (folder.parent.parent / "beside").mkdir(),
    "remove": lambda folder: (folder / "kept").unlink(),
    "rename": lambda folder: (folder / "kept").rename(folder / "new"),
    "replace": lambda folder: (folder / "code.py").replace(folder / "kept"),
    "link": lambda folder: (folder / "new").symlink_to(folder / "kept"),
    "hard link": lambda folder: (folder.parent / "temporary" / "link").hardlink_to(folder / "kept"),
    "dlopen": lambda folder: ctypes.CDLL(str(folder / "code.so")),
    "database": lambda folder: sqlite3.connect(folder / "kept"),
    "look up": lambda folder: socket.create_connection(("example.org", 80), timeout=1),
    "connect": lambda folder: socket.socket().connect(("127.0.0.1", 1)),
    "truncate": lambda folder: os.truncate(folder / "kept", 0),
    "chmod": lambda folder: (folder / "kept").chmod(0),
    "touch": lambda folder: os.utime(folder / "kept", (0, 0)),
}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stranger's folder holds. All that is temporary lies elsewhere, as it would."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "kept").write_text("as it was")
    (folder / "code.py").write_text(f"open({str(folder / 'new')!r}, 'w')")
    (folder / "code.so").write_bytes(b"")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return folder


@pytest.mark.parametrize("act", ACTS)
def test_is_refused_while_a_command_looks(given: Path, act: str) -> None:
    with pytest.raises(Refused), around(looking()):
        ACTS[act](given)
    assert not (given / "new").exists()
    assert (given / "kept").read_text() == "as it was"


def test_what_a_library_went_on_without_is_told(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with around(looking()):
        for _ in range(2):
            with suppress(OSError):  # as a file that cannot be read
                imported(given / "code.py")
    assert capsys.readouterr().err.count(f"{given / 'code.py'}: would have been executed") == 1


def test_a_link_does_not_lead_out(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "page.html").symlink_to(given / "kept")
    with pytest.raises(Refused), around(looking(output=str(out / "page.html"))):
        (out / "page.html").write_text("a page")
    assert (given / "kept").read_text() == "as it was"


def test_a_link_and_back_does_not_lead_out(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "page").mkdir(parents=True)
    (given / "deep").mkdir()
    (out / "page" / "link").symlink_to(given / "deep")
    with around(looking(output=str(out / "page"))):
        for act in (os.unlink, os.rmdir):
            with pytest.raises(Refused):
                act(f"{out}/page/link/../kept")
    assert (given / "kept").read_text() == "as it was"


def test_what_was_asked_for_is_written(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    with around(looking(output=str(out))):
        out.parent.mkdir()
        (partial := out.parent / ".page.html.partial" / "deep").mkdir(parents=True)
        (partial / "page").write_text("a page")
        (partial / "page").replace(out)
    with around(looking(makes=("folder",), folder=str(tmp_path / "run"))):
        (tmp_path / "run" / "deep").mkdir(parents=True)
        (tmp_path / "run" / "deep" / "file").write_text("a file")
    assert out.read_text() == "a page"


@pytest.mark.parametrize(
    "name",
    ["evomerge/passes/x/pass.py", "huggingface/token", "huggingface/modules/x.py", "other/thing"],
)
def test_caches_hold_no_code_of_others(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / name).parent.mkdir(parents=True)
    with around(looking()):
        (tmp_path / "cache" / "evomerge" / "merged").mkdir(parents=True)
        (tmp_path / "cache" / "evomerge" / "merged" / "file").write_text("data")
        with pytest.raises(Refused):
            (tmp_path / "cache" / name).write_text("code")


def test_a_cache_is_made_with_all_that_it_lies_in(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HF_HOME", "~/deep/er/hf")
    with around(looking()):
        (home / ".cache" / "evomerge" / "x").mkdir(parents=True)
        (home / "deep" / "er" / "hf").mkdir(parents=True)
        (home / "deep" / "er" / "hf" / "file").write_text("data")


def test_what_this_process_found_before_is_executed(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wall, "_PATH", {given.resolve()})
    with around(looking()), pytest.raises(Refused, match="new: would have been written"):
        imported(given / "code.py")


def test_passes_are_written_by_the_compiler() -> None:
    assert compiler.__file__ == wall._COMPILER


def test_bytecode_is_written_by_imports_alone(given: Path) -> None:
    import encodings

    written = Path(encodings.__file__).parent / "__pycache__" / "never.pyc"
    with pytest.raises(Refused), around(looking()):
        written.write_bytes(b"")
    assert not written.exists()


def test_temporary_files_are_a_library_s_own(given: Path, tmp_path: Path) -> None:
    import tempfile

    (tmp_path / "temporary" / "there").mkdir()
    for other in ("of another", "there/of another"):
        (tmp_path / "temporary" / other).write_text("as it was")
    with around(looking()):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "file").write_text("a file")
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"some")
        (tmp_path / "temporary" / "there").mkdir(exist_ok=True)
        for other in ("of another", "there/of another"):
            with pytest.raises(Refused):
                (tmp_path / "temporary" / other).write_text("other")


def test_an_output_may_lie_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with around(looking(output=str(tmp_path / "page.html"))):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "deep").mkdir()
            Path(folder, "deep", "file").write_text("a file")
        (tmp_path / "page.html").write_text("a page")


def test_the_hub_is_asked(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://localhost:{port}")
        with around(looking()), socket.create_connection(("localhost", port)):
            pass
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        with around(looking()), socket.socket() as asking:
            asking.connect(("127.0.0.1", port))


def test_nothing_is_around_a_command_that_works(given: Path) -> None:
    for working in ({"looks": False}, {"measure": True}, {"ablate": 0}):
        (given / "new").unlink(missing_ok=True)
        with around(looking(**working)):
            imported(given / "code.py")
        assert (given / "new").exists()


def test_who_is_asked_without_a_proxy_is_not_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "internal.corp")
    with pytest.raises(Refused, match=r"internal\.corp"), around(looking()):
        socket.getaddrinfo("internal.corp", 80)


def test_it_stands_until_the_command_ends_alone(given: Path) -> None:
    with around(looking()):
        pass
    imported(given / "code.py")
    assert (given / "new").exists()


def test_what_libraries_generate_is_executed(given: Path) -> None:
    from dataclasses import make_dataclass

    with around(looking()):
        make_dataclass("Made", [("field", int)])
