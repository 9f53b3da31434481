"""A Ray cluster of real nodes on this machine: raylets that join, drain and die."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from evomerge.testing.pools import await_that, is_alive


class Raylets:
    """A head without CPUs, and the nodes that a test adds; in a folder of its own, gone when closed.

    Attributes:
        address: of the head.
    """

    def __init__(self) -> None:
        from ray._common.utils import get_default_ray_temp_dir
        from ray.cluster_utils import Cluster

        # where Ray notes a cluster's address, whatever folder the cluster has
        Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets need a short path
        head = {
            "num_cpus": 0,
            "temp_dir": self._folder,
            "include_dashboard": False,
            "include_log_monitor": False,
            "no_monitor": True,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 8},
        }
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address

    def add(self, **options: Any) -> Any:
        """Another node, of one CPU if nothing else is said."""
        return self._cluster.add_node(**options)

    def drain(self, node: Any, seconds: float) -> None:
        """Say that the node will be taken in so many seconds, as providers of spot machines do."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        deadline = round(1000 * (time.time() + seconds))
        accepted, why = GcsClient(address=self.address).drain_node(
            node.node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "spot machine", deadline
        )
        assert accepted, why

    def remove(self, node: Any) -> None:
        """Take the node away without a word: SIGKILL to all that runs there."""
        self._cluster.remove_node(node, allow_graceful=False)

    def kill(self, node: Any) -> None:
        """SIGKILL to the raylet alone, of which nobody takes notice: it stays as a zombie."""
        os.kill(self.raylet(node), signal.SIGKILL)

    def kill_head(self) -> None:
        """SIGKILL to the head's server."""
        server = self._cluster.head_node.all_processes["gcs_server"][0].process
        server.kill()
        server.wait()

    def raylet(self, node: Any) -> int:
        """The process id of a node's raylet."""
        return int(node.all_processes["raylet"][0].process.pid)

    def close(self) -> None:
        self._cluster.shutdown()
        await_that(lambda: not self._left())
        shutil.rmtree(self._folder, ignore_errors=True)

    def _left(self) -> list[int]:
        """Processes of Ray's that still have this cluster's folder among their arguments."""
        found = []
        for arguments in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if self._folder.encode() in arguments.read_bytes():
                    found.append(int(arguments.parent.name))
            except OSError:
                continue
        return [pid for pid in found if is_alive(pid)]
