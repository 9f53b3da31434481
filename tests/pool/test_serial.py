from __future__ import annotations

from evomerge.pool import Pool, WorkerSpec
from evomerge.pool.serial import SerialPool
from evomerge.testing.pools import PoolContract, probe


class TestSerialPool(PoolContract):
    def make(self, spec: WorkerSpec) -> Pool:
        return SerialPool(spec)


def test_answers_in_order_of_submission() -> None:
    with SerialPool(probe()) as pool:
        for key in "bca":
            pool.submit({"key": key})
        assert [answer[0]["key"] for _ in range(3) if (answer := pool.next())] == list("bca")


def test_builds_its_worker_only_when_a_job_runs() -> None:
    with SerialPool(probe(input_error="never built")) as pool:
        pool.submit({"key": "waits"})
        assert pool.pending == 1
