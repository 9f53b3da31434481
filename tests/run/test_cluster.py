"""A search across nodes that die, are preempted, drain and hang ends as the undisturbed one does.

Minutes each: ``EVOMERGE_TEST_KILLS=N`` says how many searches are disturbed, each otherwise.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from raylets import Raylets

from evomerge.commands.search import search
from evomerge.pool import Pool, WorkerSpec
from evomerge.pool.ray import RayPool
from evomerge.record.events import EvaluationLine
from evomerge.run.loop import Listener
from evomerge.testing.pools import PATIENCE, await_that
from evomerge.testing.trajectory import trajectory

pytest.importorskip("ray")
SERVER = ("aiohttp_cors", "opencensus")  # of Ray's job server: pip install "ray[default]"
SEARCHES = int(os.environ.get("EVOMERGE_TEST_KILLS", "0"))
pytestmark = pytest.mark.skipif(not SEARCHES, reason="EVOMERGE_TEST_KILLS is not set")

RunFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    cluster = Raylets()
    yield cluster
    cluster.close()


class Disaster(Listener):
    """Four nodes; every few evaluations something befalls one of them, and another takes its place."""

    def __init__(self, cluster: Raylets, seed: int, evaluations: int) -> None:
        self._cluster, self._draw = cluster, random.Random(f"disaster {seed}")
        self._nodes = [cluster.add() for _ in range(4)]
        self._leaving: list[Any] = []
        befalls = [self._kill, self._drain, self._preempt, self._stop]
        self._draw.shuffle(befalls)
        moments = sorted(self._draw.sample(range(2, evaluations - 2), len(befalls)))
        self._due = dict(zip(moments, befalls, strict=True))
        self.befell: list[str] = []
        self._seen = 0
        self._pool: RayPool

    def make(self, spec: WorkerSpec) -> Pool:
        self._pool = RayPool(spec, address=self._cluster.address, job_limit=20)
        return self._pool

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        self._seen += 1
        if self._seen in self._due:
            befall = self._due[self._seen]
            befall()
            self.befell.append(befall.__name__)

    def _one(self) -> Any:
        """A node that goes, for which another comes."""
        self._nodes.append(self._cluster.add())
        return self._nodes.pop(self._draw.randrange(len(self._nodes) - 1))

    def _kill(self) -> None:
        self._cluster.remove(self._one())

    def _drain(self) -> None:
        self._leaving.append(self._one())
        self._cluster.drain(self._leaving[-1], seconds=3600)

    def _preempt(self) -> None:
        node = self._one()
        self._cluster.drain(node, seconds=1)
        self._cluster.remove(node)

    def _stop(self) -> None:
        os.kill(self._draw.choice(self._pool.pids()), signal.SIGSTOP)

    def close(self) -> None:
        for node in (*self._nodes, *self._leaving):
            self._cluster.remove(node)


def beside(run_folder: RunFolder, job: dict[str, Any]) -> tuple[Path, Path]:
    """The folder of a search that was done undisturbed, and one for the same that is to come."""
    undisturbed, other = run_folder("undisturbed", **job), run_folder("disturbed", **job)
    search(undisturbed)
    return undisturbed, other


@pytest.mark.parametrize("seed", range(SEARCHES))
def test_no_disaster_shows_in_the_result(
    seed: int, cluster: Raylets, run_folder: RunFolder, small: dict[str, Any]
) -> None:
    undisturbed, disturbed = beside(run_folder, {**small, "seed": seed})
    expected = trajectory(undisturbed)
    disaster = Disaster(cluster, seed, len(expected[1]))
    try:
        search(disturbed, disaster.make, listener=disaster)
    finally:
        disaster.close()
    print(f"seed {seed}: {', '.join(disaster.befell)}")
    assert len(disaster.befell) == 4
    assert trajectory(disturbed) == expected


HEAD = """
import sys
from raylets import Raylets
raylets = Raylets()
raylets.add()
raylets.add()
print(raylets.address, flush=True)
if input() == "die":
    raylets.kill_head()
raylets.close()
"""


@pytest.mark.parametrize("seed", range(min(SEARCHES, 2)))
def test_a_head_that_dies_in_mid_run_costs_a_resume(
    seed: int, run_folder: RunFolder, small: dict[str, Any]
) -> None:
    undisturbed, disturbed = beside(run_folder, {**small, "seed": seed})
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[1] / "pool")])
    environment = os.environ | {"PYTHONPATH": paths}
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert head.stdout is not None
    address = head.stdout.readline().strip()
    driver = subprocess.Popen(
        [sys.executable, "-m", "evomerge", "search", str(disturbed), "--ray", address],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = disturbed / "journal.jsonl"
    await_that(lambda: journal.exists() and journal.read_text().count('"evaluation"') > 3 + seed)
    head.communicate("die\n", timeout=PATIENCE)
    _, said = driver.communicate(timeout=2 * PATIENCE)
    assert driver.returncode == 1, said
    assert said.count("the head of the Ray cluster") == 1
    search(disturbed)
    assert trajectory(disturbed) == trajectory(undisturbed)


def _ray(*words: str, environment: dict[str, str]) -> str:
    """What Ray's own command line says."""
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, SERVER)), reason="ray[default] is not installed"
)
def test_a_search_submitted_as_a_job_is_stopped_and_goes_on(
    short_tmp: Path, run_folder: RunFolder, small: dict[str, Any]
) -> None:
    undisturbed, submitted = beside(run_folder, small)
    paths = os.pathsep.join(map(os.path.abspath, sys.path))
    environment = os.environ | {"PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "evomerge", "search", str(submitted), "--ray", "auto"]
    port, journal = 28265, submitted / "journal.jsonl"
    where = ["--address", f"http://127.0.0.1:{port}"]

    def job(verb: str, *words: str) -> str:
        return _ray("job", verb, *where, *words, environment=environment)

    def submit(name: str) -> None:
        await_that(
            lambda: (
                "submitted" in job("submit", "--no-wait", "--submission-id", name, "--", *command)
            )
        )

    start = ["start", "--head", "--port=26511", "--num-cpus=2", "--disable-usage-stats"]
    start += ["--include-dashboard=true", f"--dashboard-port={port}", f"--temp-dir={short_tmp}"]
    _ray(*start, environment=environment)
    try:
        submit("first")
        await_that(lambda: journal.exists() and journal.read_text().count('"evaluation"') > 3)
        job("stop", "first")
        await_that(lambda: "stopped" in job("status", "first"))
        assert "are kept; go on with" in job("logs", "first")
        submit("second")
        for _ in range(3):
            if "succeeded" in job("logs", "--follow", "second"):
                break
        assert "succeeded" in job("status", "second")
    finally:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if short_tmp.as_posix().encode() in file.read_bytes():
                    os.kill(int(file.parent.name), signal.SIGKILL)
    assert trajectory(submitted) == trajectory(undisturbed)
