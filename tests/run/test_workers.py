"""Where a search works never shows in what it finds: one worker or four, in this process or in Ray's.

One Ray serves all tests; workers are killed with SIGKILL while they work.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.search import search
from evomerge.pool import Pool, WorkerSpec
from evomerge.pool.ray import RayPool
from evomerge.record.events import EvaluationLine
from evomerge.run.loop import Listener
from evomerge.testing.trajectory import Trajectory, trajectory

ray = pytest.importorskip("ray")

KILLS = 3
SOAKED = "EVOMERGE_TEST_KILLS" in os.environ  # by ``make soak``, which tries more of everything
RunFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
    )
    yield
    ray.shutdown()


class Killer(Listener):
    """Kills workers, busy or idle, at ``KILLS`` moments of a search; ``make`` is its pool."""

    def __init__(self, workers: int, evaluations: int) -> None:
        self._draw = random.Random(f"kill {workers}")
        self._moments = set(self._draw.sample(range(1, 3 * evaluations // 4, 2), KILLS))
        self._workers, self._seen = workers, 0
        self._pool: RayPool
        self._timers: dict[int, threading.Timer] = {}  # by the pid to kill

    def make(self, spec: WorkerSpec) -> Pool:
        # Bad luck may take the same job's worker again and again.
        self._pool = RayPool(spec, self._workers, num_cpus=0.5, attempts=KILLS + 1)
        return self._pool

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        self._seen += 1
        if self._seen in self._moments:
            pid = self._draw.choice([p for p in self._pool.pids() if p not in self._timers])
            delay = self._draw.uniform(0, 0.05)
            self._timers[pid] = threading.Timer(delay, os.kill, [pid, signal.SIGKILL])
            self._timers[pid].start()

    @property
    def killed(self) -> int:
        for timer in self._timers.values():
            timer.join()
        return len(self._timers)


_kept: dict[str, Trajectory] = {}


@pytest.fixture
def serial(run_folder: RunFolder, small: dict[str, Any]) -> Trajectory:
    """What a search in this process leaves, made once."""
    if not _kept:
        folder = run_folder("serial", **small)
        search(folder)
        _kept["run"] = trajectory(folder)
    return _kept["run"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4] if SOAKED else [4])
def test_neither_the_number_of_workers_nor_their_deaths_show(
    workers: int, run_folder: RunFolder, small: dict[str, Any], serial: Trajectory, local_ray: None
) -> None:
    disturbed = run_folder("disturbed", **small)
    killer = Killer(workers, len(serial[1]))
    search(disturbed, killer.make, listener=killer)
    assert killer.killed == KILLS
    assert trajectory(disturbed) == serial
