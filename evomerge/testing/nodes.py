"""A cluster of real nodes on this machine, whose processes can be killed one by one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from evomerge.testing.pools import await_that, is_alive


class Nodes:
    """A head without CPUs, and nodes with one each.

    Args:
        count: of nodes beside the head.
    """

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        """One more node."""
        self._cluster.add_node(num_cpus=1, include_dashboard=False)

    def workers(self) -> list[int]:
        """Pids of the actors on all nodes."""
        raylets = {_raylet(node) for node in self._cluster.worker_nodes}
        return [pid for pid, parent in _actors() if parent in raylets]

    def kill_worker(self, draw: random.Random) -> bool:
        """One of them, if there are any; whether there was."""
        found = self.workers()
        return bool(found) and _kill(draw.choice(found))

    def kill_node(self, draw: random.Random) -> bool:
        """The raylet of a node, whose workers are to end by themselves; another node comes for it."""
        node = self._drawn(draw)
        orphans = [pid for pid, parent in _actors() if parent == _raylet(node)]
        _kill(_raylet(node))
        self._forget(node)
        await_that(lambda: not any(map(is_alive, orphans)))
        self.add()
        return True

    def preempt(self, draw: random.Random) -> bool:
        """Announce that a node will be taken away, and take it; another comes for it before."""
        node, seconds = self._drawn(draw), 3
        self.add()
        self.announce(node, seconds)
        time.sleep(draw.uniform(0, seconds))  # clouds do not always wait for what they announced
        _kill(_raylet(node))
        self._forget(node)
        return True

    def announce(self, node: Any, seconds: float) -> None:
        """Tell the cluster that a node has so long to live."""
        from ray import _raylet
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int(1000 * (time.time() + seconds))
        inside: Any = _raylet
        accepted, why = inside.GcsClient(address=self.address).drain_node(
            node.node_id, reason, "taken back", deadline
        )
        assert accepted, why

    def kill_head(self) -> None:
        """The cluster's own memory; what is left of it ends after."""
        _kill(self._cluster.head_node.all_processes["gcs_server"][0].process.pid)
        self.close()

    def close(self) -> None:
        self._cluster.shutdown()

    def _drawn(self, draw: random.Random) -> Any:
        return draw.choice(sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id)))

    def _forget(self, node: Any) -> None:
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._cluster.worker_nodes.discard(node)


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _kill(pid: int) -> bool:
    os.kill(pid, signal.SIGKILL)
    return True


def _actors() -> list[tuple[int, int]]:
    """Actors of Ray on this machine, and the processes that started them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::Actor"):
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                found.append((int(folder.name), int(stat[1])))
        except OSError:
            continue
    return found
