"""Nodes that come and go: a Ray cluster of several real nodes on this machine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from raylets import Raylets

from evomerge.errors import InputError
from evomerge.pool import WorkerSpec
from evomerge.pool.ray import RayPool
from evomerge.testing.pools import PATIENCE, await_that, begun, drain, is_alive, probe

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    """A head without CPUs; each test adds nodes, and takes them away."""
    cluster = Raylets()
    yield cluster
    cluster.close()


def await_turn(pool: RayPool, file: Path, turn: int) -> int:
    """The process in which a job of a probe hangs for the ``turn``-th time."""
    await_that(lambda: pool.next(0.1) is None and len(begun(file)) == turn)
    return begun(file)[-1]


def raylet_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_new_nodes_are_used_also_by_a_run_that_started_with_none(cluster: Raylets) -> None:
    with RayPool(probe(), address=cluster.address) as pool:
        for n in range(8):
            pool.submit({"key": str(n), "sleep": 1})
        assert pool.next(1) is None
        nodes = [cluster.add(), cluster.add()]
        assert len({outcome["pid"] for outcome in drain(pool).values()}) == 2
        assert pool.slots == 2
    for node in nodes:
        cluster.remove(node)


def both(pool: RayPool) -> set[int]:
    """The two workers, once each has answered: on a busy machine one opens long before the other."""
    found = set[int]()
    for turn in range(60):
        for n in range(2):
            pool.submit({"key": f"first {turn} {n}", "sleep": 1})
        found |= {outcome["pid"] for outcome in drain(pool).values()}
        if len(found) == 2:
            break
    return found


def test_a_slow_node_gets_fewer_jobs_and_no_other_result(cluster: Raylets) -> None:
    nodes = [cluster.add(), cluster.add()]
    with RayPool(probe(), 2, address=cluster.address) as pool:
        slow, fast = both(pool)
        os.kill(slow, signal.SIGSTOP)
        found = {}
        try:
            for n in range(8):
                pool.submit({"key": str(n), "value": n})
            while len(found) < 7:
                answer = pool.next(PATIENCE)
                assert answer is not None
                found[answer[0]["key"]] = answer[1]
            assert {outcome["pid"] for outcome in found.values()} == {fast}
        finally:
            os.kill(slow, signal.SIGCONT)
        found |= drain(pool)
    assert [outcome["pid"] for outcome in found.values()].count(slow) == 1
    assert {key: outcome["value"] for key, outcome in found.items()} == {
        str(n): n for n in range(8)
    }
    for node in nodes:
        cluster.remove(node)


def test_nodes_that_die_are_nobodys_fault_however_many(cluster: Raylets, tmp_path: Path) -> None:
    nodes = {cluster.raylet(node): node for node in [cluster.add() for _ in range(3)]}
    file = tmp_path / "begun"
    with RayPool(probe(), 1, address=cluster.address, attempts=2) as pool:
        pool.submit({"key": "mine", "value": 1, "hangs": 2, "begun": str(file)})
        for turn in (1, 2):
            worker = await_turn(pool, file, turn)
            cluster.remove(nodes.pop(raylet_of(worker)))
        assert drain(pool)["mine"]["value"] == 1
    for node in nodes.values():
        cluster.remove(node)


def test_what_a_draining_node_has_is_handed_on_and_whoever_is_first_answers(
    cluster: Raylets, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leaving, file = cluster.add(num_cpus=2), tmp_path / "begun"
    with RayPool(probe(), address=cluster.address) as pool:
        pool.submit({"key": "first here", "steps": 8})
        pool.submit({"key": "first there", "hangs": 1, "begun": str(file)})
        worker = await_turn(pool, file, 1)
        cluster.drain(leaving, seconds=3600)
        answer = pool.next(PATIENCE)
        assert answer is not None and answer[0]["key"] == "first here"
        staying = cluster.add()
        for n in range(4):
            pool.submit({"key": str(n)})
        outcomes = drain(pool)
        assert outcomes.keys() == {"first there", *"0123"}
        assert {outcome["pid"] for outcome in outcomes.values()} == set(pool.pids())
        assert not {worker, answer[1]["pid"]} & set(pool.pids())
        assert "job 'first there' is handed on" in caplog.text
        await_that(lambda: not is_alive(cluster.raylet(leaving)))  # with nothing to do it may go
    for node in (leaving, staying):
        cluster.remove(node)


def test_workers_end_with_their_raylet_also_where_nobody_takes_notice(
    cluster: Raylets, tmp_path: Path
) -> None:
    node, file = cluster.add(), tmp_path / "begun"
    with RayPool(probe(), address=cluster.address) as pool:
        pool.submit({"key": "mine", "hangs": 1, "begun": str(file)})
        worker = await_turn(pool, file, 1)
        cluster.kill(node)
        await_that(lambda: not is_alive(worker))
    cluster.remove(node)


def test_workers_go_where_the_options_say_with_the_environment_they_name(
    cluster: Raylets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_a_user.py").write_text(
        "import os\ndef build(argument):\n"
        "    return lambda job: {'found': os.environ.get('OF_A_USER'), 'raylet': os.getppid()}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plain, other = cluster.add(), cluster.add(resources={"spare": 2}, labels={"kind": "b"})
    with RayPool(
        WorkerSpec("of_a_user:build", {}),
        address=cluster.address,
        num_cpus=0.5,
        resources={"spare": 2},
        labels={"kind": "in(b, c)"},
        runtime_env={"env_vars": {"OF_A_USER": "set"}},
    ) as pool:
        assert pool.slots == 1
        pool.submit({"key": "mine"})
        outcome = drain(pool)["mine"]
    assert outcome == {"found": "set", "raylet": cluster.raylet(other)}
    with RayPool(probe(input_error="/models/a: no such folder"), address=cluster.address) as pool:
        pool.submit({"key": "mine"})
        with pytest.raises(InputError, match=r"^on \S+ \(\w{6}\): /models/a: no such folder$"):
            pool.next(PATIENCE)
    for node in (plain, other):
        cluster.remove(node)


def test_a_cluster_of_another_version_says_so(cluster: Raylets) -> None:
    from ray._raylet import GcsClient

    store, key = GcsClient(address=cluster.address), b"CLUSTER_METADATA"
    truth = store.internal_kv_get(key, b"cluster")
    other = json.dumps({**json.loads(truth), "ray_version": "2.1.0"}).encode()
    store.internal_kv_put(key, other, True, b"cluster")
    with pytest.raises(InputError, match=r"another Ray or Python(.|\n)*Ray: 2\.1\.0"):
        RayPool(probe(), address=cluster.address)
    store.internal_kv_put(key, truth, True, b"cluster")
