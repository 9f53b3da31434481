"""A search on a cluster on which everything dies, again and again, ends as one that nothing disturbed; ``make soak``."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from raylets import Raylets

from evomerge.commands.search import search
from evomerge.record.events import JOURNAL
from evomerge.testing.drivers import Drivers, await_size
from evomerge.testing.pools import await_that, is_alive
from evomerge.testing.trajectory import trajectory

pytest.importorskip("ray")

KILLS = int(os.environ.get("EVOMERGE_TEST_DEATHS", "0"))
SEED = os.environ.get("EVOMERGE_TEST_SEED", "0")
NODES = 3
ROUND = 8  # deaths in one search
KINDS = {"driver": 3, "worker": 4, "node": 2, "preempted": 2, "head": 1}  # how often each

pytestmark = pytest.mark.skipif(not KILLS, reason="half an hour: make soak")


class Machines:
    """A cluster of a few nodes, of which each that goes is followed by another."""

    def __init__(self, draw: random.Random) -> None:
        self._draw, self._raylets = draw, Raylets()
        self._nodes = [self._raylets.add() for _ in range(NODES)]

    @property
    def address(self) -> str:
        return self._raylets.address

    def kill_worker(self) -> bool:
        """An actor, if there is one; whether there was."""
        found = [pid for node in self._nodes for pid in self._actors(node)]
        if found:
            os.kill(self._draw.choice(found), signal.SIGKILL)
        return bool(found)

    def kill_node(self) -> None:
        """A raylet, whose actors end by themselves."""
        node = self._one()
        orphans = self._actors(node)
        self._raylets.kill(node)
        await_that(lambda: not any(map(is_alive, orphans)))
        self._raylets.remove(node)

    def preempt(self) -> None:
        """Take a node that was told so; clouds do not always wait as long as they said."""
        node = self._one()
        self._raylets.drain(node, seconds=3)
        time.sleep(self._draw.uniform(0, 3))
        self._raylets.remove(node)

    def kill_head(self) -> None:
        self._raylets.kill_head()

    def close(self) -> None:
        self._raylets.close()

    def _one(self) -> Any:
        """A node that goes, for which another comes."""
        self._nodes.append(self._raylets.add())
        return self._nodes.pop(self._draw.randrange(NODES))

    def _actors(self, node: Any) -> list[int]:
        parent, found = self._raylets.raylet(node), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                actor = (folder / "cmdline").read_bytes().startswith(b"ray::Actor")
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if actor and int(stat[1]) == parent:
                found.append(int(folder.name))
        return found


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
        told = disturbed(folder, draw, length, drivers)
        assert trajectory(folder) == undisturbed, (number, told)
        done.update(told)
        print(f"seed {SEED}, search {number}: {', '.join(told)}: identical", flush=True)
        number += 1
    print(f"{done.total()} deaths in {number} searches, all identical: {dict(done)}")


def disturbed(folder: Path, draw: random.Random, length: int, drivers: Drivers) -> list[str]:
    """Search in ``folder`` to the end, while ``ROUND`` things die; which ones did."""
    moments = sorted(draw.randrange(1, int(0.9 * length)) for _ in range(ROUND))
    machines, told = Machines(draw), list[str]()
    try:
        pid = start(drivers, folder, machines)
        for moment in moments:
            await_size(folder / JOURNAL, moment, over=partial(is_dead, pid))
            if is_dead(pid):
                break
            kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
            if kind == "driver":
                os.kill(pid, signal.SIGKILL)
                status = drivers.status()
                assert status in (0, -signal.SIGKILL), drivers.output.read_text()
            elif kind == "head":
                machines.kill_head()
                status, said = drivers.status(), drivers.output.read_text()
                died = status == 1 and said.count("the head of the Ray cluster") == 1
                never_met = status == 2 and said.count("no Ray cluster answers there") == 1
                assert status == 0 or died or never_met, (status, said)
                machines.close()
                machines = Machines(draw)
            elif kind == "worker":
                if not machines.kill_worker():
                    continue
            elif kind == "node":
                machines.kill_node()
            else:
                machines.preempt()
            if kind in ("driver", "head"):
                if status == 0:  # it was done just before
                    return told
                pid = start(drivers, folder, machines)
            told.append(kind)
        assert drivers.status() == 0, drivers.output.read_text()
    finally:
        machines.close()
    return told


def is_dead(pid: int) -> bool:
    return not is_alive(pid)


def start(drivers: Drivers, folder: Path, machines: Machines) -> int:
    return drivers.start("search", str(folder), "--quiet", "--ray", machines.address)
