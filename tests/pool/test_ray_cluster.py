"""Nodes that come and go: a Ray cluster of several real nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from evomerge.errors import InputError
from evomerge.pool.ray import RayPool
from evomerge.testing.pools import await_that, drain, is_alive, probe

pytest.importorskip("ray")


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


def test_new_nodes_are_used_and_dead_nodes_survived(cluster: Any) -> None:
    with RayPool(probe(), address=cluster.address) as pool:
        assert pool.slots == 1
        pool.submit({"key": "on the head"})
        head = drain(pool)["on the head"]["pid"]

        second = cluster.add_node(num_cpus=1)
        await_that(lambda: pool.slots == 2)
        seen = set[int]()
        for turn in range(60):  # a worker on the new node takes its time to start
            for n in range(4):
                pool.submit({"key": f"{turn}-{n}", "sleep": 0.5})
            seen |= {outcome["pid"] for outcome in drain(pool).values()}
            if len(seen) == 2:
                break
        assert len(seen) == 2

        for n in range(4):
            pool.submit({"key": str(n), "sleep": 1})
        assert pool.next(0.1) is None
        cluster.remove_node(second, allow_graceful=False)
        outcomes = drain(pool)
        assert len(outcomes) == 4
        await_that(lambda: pool.slots == 1)
    await_that(lambda: not is_alive(head))


def test_no_cluster_at_the_address() -> None:
    with pytest.raises(InputError, match="no Ray cluster answers"):
        RayPool(probe(), address="127.0.0.1:1")
