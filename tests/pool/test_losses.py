"""Whose fault a loss is, as Ray really tells it; and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.errors import RunError
from evomerge.pool import WorkerSpec
from evomerge.pool.ray import RayPool
from evomerge.pool.ray.losses import Kind, Loss, verdict
from evomerge.testing.pools import PATIENCE, await_that, drain, probe

ray = pytest.importorskip("ray")


def loss(kind: Kind, node: str = "a") -> Loss:
    return Loss(
        kind, node, "pid 7 on b", memory=12_300_000_000, kills=0, at=0.0, reason="Ray's own words"
    )


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (Kind.NODE, False),
        (Kind.UNREACHED, False),
        (Kind.MONITOR, True),
        (Kind.KERNEL, True),
        (Kind.PROCESS, True),
        (Kind.HUNG, True),
    ],
)
def test_only_what_a_healthy_node_saw_counts(kind: Kind, fault: bool) -> None:
    assert loss(kind).is_fault({"a"}) is fault
    assert not loss(kind).is_fault({"b"}), "its node went, or is going"
    assert loss(kind, node="").is_fault({"b"}) is fault


def test_the_kernel_is_named_only_where_it_killed_since() -> None:
    died = loss(Kind.PROCESS)
    died.learn(0)
    assert died.kind is Kind.PROCESS
    died.learn(1)
    assert died.kind is Kind.KERNEL
    silent = replace(loss(Kind.PROCESS), kills=None)
    silent.learn(7)
    assert silent.kind is Kind.PROCESS, "how many there were before, it never told"


def test_memory_kill_and_crash_are_told_apart() -> None:
    memory = verdict([loss(Kind.PROCESS), loss(Kind.MONITOR), loss(Kind.MONITOR)])
    assert "1 x its process ended" in memory and "2 x killed by Ray's memory monitor" in memory
    for part in ("--num-cpus", "check RUN --measure", "12.3 GB", "pid 7 on b", "Ray's own words"):
        assert part in memory
    assert "--num-cpus" in verdict([loss(Kind.KERNEL)])
    assert "--num-cpus" not in verdict([loss(Kind.PROCESS)])


def test_the_memory_monitor_of_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")  # whatever a worker holds is too much
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with RayPool(probe(), 1, attempts=1) as pool:
        pool.submit({"key": "mine", "sleep": 3600})
        with pytest.raises(RunError) as caught:
            pool.next(10 * PATIENCE)
    assert "1 x killed by Ray's memory monitor" in str(caught.value)
    assert "larger --num-cpus" in str(caught.value)


GREEDY = """
import os, time
def build(argument):
    return work
def work(job):
    held = bytearray(job["bytes"])
    for at in range(0, len(held), 4096):
        held[at] = 1
    return {"pid": os.getpid()}
"""


@pytest.fixture
def few_bytes() -> Iterator[Path]:
    """A group of processes which the kernel allows 300 MB in all."""
    group = Path("/sys/fs/cgroup/memory/evomerge-tests")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("300M")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    await_that(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.skipif(
    "EVOMERGE_TEST_KILLS" not in os.environ, reason="EVOMERGE_TEST_KILLS is not set"
)
def test_the_kernels_killer_is_named(
    few_bytes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(str(tmp_path))
    with RayPool(WorkerSpec("greedy:build", {}), 1, attempts=1) as pool:
        pool.submit({"key": "small", "bytes": 0})
        worker = drain(pool)["small"]["pid"]
        (few_bytes / "cgroup.procs").write_text(str(worker))
        pool.submit({"key": "large", "bytes": 1 << 30})
        with pytest.raises(RunError, match="1 x killed by the kernel, which lacked memory"):
            pool.next(PATIENCE)
