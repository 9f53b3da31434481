"""A worker whose node is gone ends by itself, whatever it is at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from subprocess import PIPE

import pytest

from evomerge.pool.ray.telling import is_gone
from evomerge.testing.pools import await_that

WORKER = """
import sys, time
from evomerge.pool.ray.telling import Telling
from evomerge.scorers.foreign import staying
Telling("worker", int(sys.argv[1]))
with staying():
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen(["sleep", "600"])
    yield made
    made.kill()
    made.wait()


@pytest.fixture
def worker() -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts one whose raylet has the given number; code of the user's is what it calls."""
    made = []

    def start(raylet: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(raylet)]
        made.append(subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True))
        return made[-1]

    yield start
    for each in made:
        each.kill()
        each.communicate()


@pytest.mark.parametrize("noticed", [False, True])
def test_it_ends_with_its_raylet_however_early(
    noticed: bool,
    raylet: subprocess.Popen[bytes],
    worker: Callable[[int], subprocess.Popen[str]],
) -> None:
    os.kill(raylet.pid, signal.SIGKILL)
    if noticed:
        raylet.wait()
    await_that(lambda: is_gone(raylet.pid))
    started = worker(raylet.pid)
    _, said = started.communicate(timeout=120)
    assert (started.returncode, said) == (1, "")


def test_it_ends_in_the_midst_of_code_that_may_not_end_it(
    raylet: subprocess.Popen[bytes], worker: Callable[[int], subprocess.Popen[str]]
) -> None:
    started = worker(raylet.pid)
    assert started.stdout is not None and started.stdout.readline() == "at work\n"
    raylet.kill()
    _, said = started.communicate(timeout=120)
    assert (started.returncode, said) == (1, "")


def test_one_whose_raylet_is_out_of_sight_stays(
    worker: Callable[[int], subprocess.Popen[str]],
) -> None:
    started = worker(0)
    assert started.stdout is not None and started.stdout.readline() == "at work\n"
    with pytest.raises(subprocess.TimeoutExpired):
        started.wait(3)
