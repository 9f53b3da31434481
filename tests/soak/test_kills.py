"""A search on a cluster on which everything dies, again and again, ends as one that nothing disturbed; ``make soak``."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.search import search
from evomerge.record.events import JOURNAL
from evomerge.testing.drivers import Drivers, await_size
from evomerge.testing.nodes import Nodes
from evomerge.testing.pools import is_alive
from evomerge.testing.trajectory import trajectory

pytest.importorskip("ray")

KILLS = int(os.environ.get("EVOMERGE_TEST_KILLS", "0"))
SEED = os.environ.get("EVOMERGE_TEST_SEED", "0")
NODES = 3
ROUND = 8  # kills in one search
KINDS = {"driver": 3, "worker": 4, "node": 2, "preempted": 2, "head": 1}  # how often each

pytestmark = pytest.mark.skipif(not KILLS, reason="half an hour: make soak")


def test_whatever_dies_the_result_is_the_same(
    write_job: Callable[..., Path], small: dict[str, Any], tmp_path: Path, drivers: Drivers
) -> None:
    job = {**small, "budget": {"evaluations": 40}}
    whole = write_job(tmp_path / "whole", **job)
    search(whole)
    undisturbed, length = trajectory(whole), (whole / JOURNAL).stat().st_size
    done, number = Counter[str](), 0
    while done.total() < KILLS:
        draw = random.Random(f"soak {SEED} {number}")
        folder = write_job(tmp_path / f"round {number}", **job)
        told = trouble(folder, draw, length, drivers)
        assert trajectory(folder) == undisturbed, (number, told)
        done.update(told)
        print(f"seed {SEED}, search {number}: {', '.join(told)}: identical", flush=True)
        number += 1
    print(f"{done.total()} deaths in {number} searches, all identical: {dict(done)}")


def trouble(folder: Path, draw: random.Random, length: int, drivers: Drivers) -> list[str]:
    """Search in ``folder`` to the end, while ``ROUND`` things die; which ones did."""
    moments = sorted(draw.randrange(1, int(0.9 * length)) for _ in range(ROUND))
    nodes, told = Nodes(NODES), list[str]()
    try:
        pid = start(drivers, folder, nodes)
        for moment in moments:
            await_size(folder / JOURNAL, moment, over=partial(is_dead, pid))
            if is_dead(pid):
                break
            kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
            if kind == "driver":
                os.kill(pid, signal.SIGKILL)
                assert drivers.status() == -signal.SIGKILL
            elif kind == "head":
                nodes.kill_head()
                status, said = drivers.status(), drivers.output.read_text()
                assert status == 1 and said.count("evomerge: ") == 1, (status, said)
                assert "resume" in said and "Traceback" not in said, said
                nodes = Nodes(NODES)
            elif kind == "worker":
                if not nodes.kill_worker(draw):
                    continue
            elif kind == "node":
                nodes.kill_node(draw)
            else:
                nodes.preempt(draw)
            told.append(kind)
            if kind in ("driver", "head"):
                pid = start(drivers, folder, nodes)
        assert drivers.status() == 0, drivers.output.read_text()
    finally:
        nodes.close()
    return told


def is_dead(pid: int) -> bool:
    return not is_alive(pid)


def start(drivers: Drivers, folder: Path, nodes: Nodes) -> int:
    return drivers.start("search", str(folder), "--quiet", "--ray", nodes.address)
