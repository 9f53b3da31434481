"""A worker whose node is gone ends by itself, also one that was still importing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from evomerge.pool.ray.telling import is_gone

WORKER = """
import sys, time
from evomerge.pool.ray.telling import Telling
Telling("worker", int(sys.argv[1]))
time.sleep(600)
"""


@pytest.fixture
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen(["sleep", "600"])
    yield made
    made.kill()
    made.wait()


@pytest.mark.parametrize("noticed", [False, True])
def test_it_ends_with_its_raylet_however_early(
    noticed: bool, raylet: subprocess.Popen[bytes]
) -> None:
    os.kill(raylet.pid, signal.SIGKILL)
    if noticed:
        raylet.wait()
    while not is_gone(raylet.pid):
        pass
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, str(raylet.pid)], timeout=120, capture_output=True
    )
    assert (worker.returncode, worker.stderr) == (1, b"")


def test_one_whose_raylet_is_out_of_sight_stays(raylet: subprocess.Popen[bytes]) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, "0"])
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(4)
    worker.kill()
    worker.wait()
