"""A disk that is full, wherever a search is: one message, and it goes on once there is room. ``make soak``: at 20 places."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.search import search
from evomerge.record.events import JOURNAL
from evomerge.testing.drivers import Drivers
from evomerge.testing.trajectory import trajectory

PLACES = 20 if os.environ.get("EVOMERGE_TEST_SOAK") else 2
SEED = os.environ.get("EVOMERGE_TEST_SEED", "0")
PAGE = 4096
DISK = 64 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of ``DISK`` bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes of a disk."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - left)
    return ballast


def used(folder: Path) -> int:
    """Bytes of pages that a folder's files take."""
    return sum(-(-f.stat().st_size // PAGE) * PAGE for f in folder.rglob("*") if f.is_file())


@pytest.mark.slow
def test_a_full_disk_costs_nothing_but_the_room(
    write_job: Callable[..., Path],
    small: dict[str, Any],
    tmp_path: Path,
    disk: Path,
    drivers: Drivers,
) -> None:
    whole = write_job(tmp_path / "whole", **small)
    before = used(whole)
    search(whole)
    undisturbed, grown = trajectory(whole), used(whole) - before
    draw = random.Random(f"disk {SEED}")
    for room in sorted(draw.sample(range(0, grown, PAGE), PLACES)):
        folder = write_job(disk / f"run {room}", **small)
        ballast = fill(disk, room)
        drivers.start("search", str(folder), "--quiet", "--ray", "off")
        status, said = drivers.status(), drivers.output.read_text()
        assert status == 1, (room, status, said)
        told = [line for line in said.splitlines() if line.startswith("evomerge: ")]
        wrong = [line for line in told if "look at the report split is not recorded" not in line]
        assert "Traceback" not in said and len(wrong) == 1, (room, said)
        assert "no space left" in said.lower(), (room, said)
        ballast.unlink()
        begun = b"\n" in (folder / JOURNAL).read_bytes()
        drivers.start("resume" if begun else "search", str(folder), "--quiet", "--ray", "off")
        assert drivers.status() == 0, (room, drivers.output.read_text())
        assert trajectory(folder) == undisturbed, room
        looks = folder / "run.looks.jsonl"
        assert len(looks.read_text().splitlines()) == 1, room
        shutil.rmtree(folder)
