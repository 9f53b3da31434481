"""A run's folder that is deleted, moved or locked while the search works, and one on storage that is read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.commands.search import search
from evomerge.errors import RunError
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.record.record import Record
from evomerge.report.files import BEST, REPORT
from evomerge.testing.listening import After
from evomerge.testing.trajectory import Trajectory, trajectory

RunFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(
    write_job: Callable[..., Path],
    small: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a finished search."""
    folder = write_job(tmp_path_factory.mktemp("whole") / "run", **small)
    search(folder)
    return folder


@pytest.fixture
def undisturbed(whole: Path) -> Trajectory:
    return trajectory(whole)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nothing can be written into ``path``, a file or a folder, not by root either."""
    mode = path.stat().st_mode
    if os.geteuid():
        path.chmod(mode & ~0o222)
    elif subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
        pytest.skip("this file system has no immutable files, and root may write everywhere")
    try:
        yield
    finally:
        if os.geteuid():
            path.chmod(mode)
        else:
            subprocess.run(["chattr", "-i", path], check=True)


def test_a_folder_that_is_deleted_stops_the_search(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("deleted", **small)
    with pytest.raises(RunError, match=rf"{folder}.*: this file was deleted while the search ran"):
        search(folder, listener=After(5, lambda: shutil.rmtree(folder)))
    assert not folder.exists()


def test_a_folder_that_is_moved_stops_the_search_which_is_resumed_there(
    run_folder: RunFolder, small: dict[str, Any], undisturbed: Trajectory, tmp_path: Path
) -> None:
    folder, there = run_folder("named", **small), tmp_path / "renamed"
    with pytest.raises(RunError, match=rf"{folder}.* was moved, to {there}/.* resume it where"):
        search(folder, listener=After(5, lambda: folder.rename(there)))
    assert not folder.exists()
    there.rename(folder)
    search(folder)
    assert trajectory(folder) == undisturbed


def test_a_file_in_the_place_of_another_stops_the_search(
    run_folder: RunFolder, small: dict[str, Any]
) -> None:
    folder = run_folder("replaced", **small)
    file = folder / RESPONSES

    def replace() -> None:
        file.rename(folder / "kept")
        shutil.copy(folder / "kept", file)

    with pytest.raises(RunError, match=rf"{file}: this file was moved, to {folder}/kept"):
        search(folder, listener=After(5, replace))


@pytest.mark.parametrize("name", [JOURNAL, "."])
def test_a_folder_that_is_locked_stops_the_search(
    name: str, run_folder: RunFolder, small: dict[str, Any], undisturbed: Trajectory
) -> None:
    folder = run_folder("locked", **small)
    lock = locked(folder / name)
    if os.geteuid() and name != ".":
        pytest.skip("a file that is open may be written by its owner, whatever its mode")
    says = "the results cannot be written" if name == "." else "the disk is read-only"
    try:
        with pytest.raises(RunError, match=f"{says}.*resume the run"):
            search(folder, listener=After(5, lock.__enter__))
    finally:
        lock.__exit__(None, None, None)
    search(folder)
    assert trajectory(folder) == undisturbed


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


def test_a_finished_run_on_read_only_storage_shows_its_table(whole: Path) -> None:
    kept = whole.with_name("kept")
    shutil.copytree(whole, kept)
    commands = [["search", "--ray", "off", "--quiet"], ["status"], ["report"], ["export"]]
    code = (
        "import sys; from evomerge.cli import main\n"
        f"for each in {commands!r}: assert main([each[0], sys.argv[1], *each[1:]]) == 0, each\n"
    )
    run = [sys.executable, "-c", code, str(kept)]
    if os.geteuid() == 0:
        if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
            pytest.skip("no mount can be made here")
        run = ["unshare", "-m", "sh", "-c", READ_ONLY, str(kept), *run]
    before = {path: path.stat() for path in (kept, *kept.iterdir())}
    for path in before if os.geteuid() else ():
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        done = subprocess.run(
            run, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )
    finally:
        for path, stat in before.items() if os.geteuid() else ():
            path.chmod(stat.st_mode)
    assert done.returncode == 0, done.stderr
    assert "report split" in done.stdout and "done" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (kept, *kept.iterdir())} == {
        path: stat.st_mtime_ns for path, stat in before.items()
    }
    assert (kept / BEST).read_text() == (whole / BEST).read_text() and (kept / REPORT).is_file()


def test_an_unfinished_run_on_read_only_storage_is_refused(
    run_folder: RunFolder, small: dict[str, Any], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder("half", **small)
    (folder / JOURNAL).write_bytes((whole / JOURNAL).read_bytes()[:20_000])
    (folder / RESPONSES).write_bytes((whole / RESPONSES).read_bytes())
    with locked(folder / JOURNAL):
        assert main(["search", str(folder), "--ray", "off"]) == 2
    assert "the journal cannot be written" in capsys.readouterr().err


def test_a_clock_that_jumps_changes_nothing(
    run_folder: RunFolder,
    small: dict[str, Any],
    undisturbed: Trajectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By days, forwards and back, with every look at it; the budget is an hour, over two sessions."""
    folder = run_folder("jumping", **{**small, "budget": {"evaluations": 16, "hours": 1}})
    day, real, looks = 86_400.0, time.time, [0]

    def jumping() -> float:
        looks[0] += 1
        return real() + day * (-1) ** looks[0] * looks[0]

    monkeypatch.setattr(time, "time", jumping)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(folder, listener=After(9, stop))
    search(folder)
    monkeypatch.undo()
    found = trajectory(folder)
    assert found[1:] == undisturbed[1:] and not Record(folder).history.closed
    assert 0 < Record(folder).seconds < 600
