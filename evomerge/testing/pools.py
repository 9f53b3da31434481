"""What every pool owes, as tests: subclass a contract, say how to ``make`` the pool, run pytest."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InputError, RunError
from evomerge.pool import Heard, PlainJob, PlainOutcome, Pool, WorkerSpec

PATIENCE = 60.0  # seconds that a busy machine may take to start a worker


class Probe:
    """A worker that does as it is told: answer, raise, tell progress, sleep or die."""

    def __init__(self, argument: Mapping[str, Any]) -> None:
        if "input_error" in argument:
            raise InputError(argument["input_error"])
        if "bug" in argument:
            raise ZeroDivisionError(argument["bug"])
        self.calls = 0
        self.heard: Heard = lambda done, total: None

    def __call__(self, job: PlainJob) -> PlainOutcome:
        self.calls += 1
        if "bug" in job:
            raise ZeroDivisionError(job["bug"])
        if "die_unless" in job and not Path(job["die_unless"]).exists():
            Path(job["die_unless"]).touch()
            _die()
        if job.get("die"):
            _die()
        if "hangs" in job and len(begun(Path(job["begun"]))) < job["hangs"]:
            with Path(job["begun"]).open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(3600)
        for step in range(job.get("steps", 0)):
            self.heard(step, job["steps"])
            time.sleep(0.5)
        time.sleep(job.get("sleep", 0))
        value = object() if job.get("opaque") else job.get("value")
        return {"key": job["key"], "value": value, "calls": self.calls, "pid": os.getpid()}


def begun(file: Path) -> list[int]:
    """The processes in which a job of a ``Probe`` hung: ``{"hangs": how often, "begun": file}``."""
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def probe(**argument: Any) -> WorkerSpec:
    """The spec of a ``Probe``."""
    return WorkerSpec("evomerge.testing.pools:Probe", argument)


def drain(pool: Pool) -> dict[str, PlainOutcome]:
    """The outcomes of all pending jobs, by key; each job must be answered once."""
    outcomes: dict[str, PlainOutcome] = {}
    while pool.pending:
        answer = pool.next(PATIENCE)
        assert answer is not None, f"no answer in {PATIENCE:g} s"
        job, outcome = answer
        assert job["key"] not in outcomes, "answered twice"
        outcomes[job["key"]] = outcome
    return outcomes


def await_that(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds; fail after ``PATIENCE``."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs under ``pid``; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class PoolContract:
    """The promises of ``evomerge.pool.Pool``."""

    def make(self, spec: WorkerSpec) -> Pool:
        """The pool under test."""
        raise NotImplementedError

    def test_answers_every_job_once_with_what_the_worker_said(self) -> None:
        jobs: list[PlainJob] = [{"key": f"job {n}", "value": n} for n in range(7)]
        with self.make(probe()) as pool:
            for job in jobs:
                pool.submit(job)
            assert pool.pending == len(jobs)
            outcomes = drain(pool)
            assert {key: outcome["value"] for key, outcome in outcomes.items()} == {
                job["key"]: job["value"] for job in jobs
            }
            assert pool.pending == 0

    def test_plain_data_crosses_unchanged(self) -> None:
        value = {
            "pi": 3.141592653589793,
            "tiny": 5e-324,
            "ไทย": ["\u2028", "\ud800", None, True, -0.0],
        }
        job = {"key": "plain", "value": value}
        with self.make(probe()) as pool:
            pool.submit(job)
            answer = pool.next(PATIENCE)
        assert answer is not None
        assert answer[0] == job
        assert repr(answer[1]["value"]) == repr(value)

    def test_an_outcome_does_not_share_memory_with_its_job(self) -> None:
        job = {"key": "shared", "value": [1]}
        with self.make(probe()) as pool:
            pool.submit(job)
            outcome = drain(pool)["shared"]
        outcome["value"].append(2)
        assert job["value"] == [1]

    def test_a_key_may_come_back_once_answered_but_not_while_pending(self) -> None:
        with self.make(probe()) as pool:
            for value in range(2):
                pool.submit({"key": "again", "value": value})
                with pytest.raises(ValueError, match="again"):
                    pool.submit({"key": "again"})
                assert drain(pool)["again"]["value"] == value

    def test_a_worker_stays_resident(self) -> None:
        with self.make(probe()) as pool:
            for n in range(2 * pool.slots + 1):
                pool.submit({"key": str(n)})
            assert max(outcome["calls"] for outcome in drain(pool).values()) > 1

    def test_jobs_that_are_not_plain_data_are_refused(self) -> None:
        with self.make(probe()) as pool:
            with pytest.raises(ValueError):
                pool.submit({"key": "nan", "value": float("nan")})
            with pytest.raises(TypeError):
                pool.submit({"key": "object", "value": object()})
            assert pool.pending == 0

    def test_nothing_pending_is_answered_at_once(self) -> None:
        with self.make(probe()) as pool:
            assert pool.next() is None
            assert pool.next(PATIENCE) is None

    def test_what_a_worker_raises_stops_the_run_with_its_traceback(self) -> None:
        with self.make(probe()) as pool:
            pool.submit({"key": "seven", "bug": "division by love"})
            with pytest.raises(RunError) as caught:
                pool.next(PATIENCE)
        for part in ("'seven'", "ZeroDivisionError: division by love", "pools.py", "__call__"):
            assert part in str(caught.value)

    def test_an_outcome_that_is_not_plain_data_is_a_bug(self) -> None:
        with self.make(probe()) as pool:
            pool.submit({"key": "opaque", "opaque": True})
            with pytest.raises(RunError, match="not JSON serializable"):
                pool.next(PATIENCE)

    def test_wrong_input_found_while_building_stays_an_input_error(self) -> None:
        with self.make(probe(input_error="model.yaml:3: no such model")) as pool:
            pool.submit({"key": "first"})
            with pytest.raises(InputError) as caught:
                pool.next(PATIENCE)
        assert str(caught.value) == "model.yaml:3: no such model"

    def test_a_bug_found_while_building_stops_the_run(self) -> None:
        with self.make(probe(bug="built on sand")) as pool:
            pool.submit({"key": "first"})
            with pytest.raises(RunError, match="ZeroDivisionError: built on sand"):
                pool.next(PATIENCE)

    def test_an_unknown_worker_is_named(self) -> None:
        with self.make(WorkerSpec("evomerge.testing.pools:Missing", {})) as pool:
            pool.submit({"key": "first"})
            with pytest.raises(RunError, match="Missing"):
                pool.next(PATIENCE)

    def test_close_drops_what_is_pending_and_may_come_twice(self) -> None:
        pool = self.make(probe())
        pool.submit({"key": "dropped"})
        pool.close()
        pool.close()
        assert pool.pending == 0


class ProcessPoolContract(PoolContract):
    """And the promises of a pool whose workers are processes of their own."""

    def test_a_timeout_returns_none_and_loses_nothing(self) -> None:
        with self.make(probe()) as pool:
            pool.submit({"key": "slow", "sleep": 0.5})
            assert pool.next(0.01) is None
            assert pool.pending == 1
            assert list(drain(pool)) == ["slow"]

    def test_a_slow_job_does_not_hold_up_the_others(self) -> None:
        with self.make(probe()) as pool:
            assert pool.slots > 1
            pool.submit({"key": "slow", "sleep": 3600})
            for n in range(4):
                pool.submit({"key": str(n)})
            answers = [pool.next(PATIENCE) for _ in range(4)]
            assert {answer[0]["key"] for answer in answers if answer} == set("0123")

    def test_a_job_whose_worker_is_killed_is_still_answered_once(self, tmp_path: Path) -> None:
        with self.make(probe()) as pool:
            pool.submit({"key": "unlucky", "die_unless": str(tmp_path / "died"), "value": 1})
            for n in range(3):
                pool.submit({"key": str(n), "value": 1})
            outcomes = drain(pool)
            assert (tmp_path / "died").exists()
            assert outcomes.keys() == {"unlucky", "0", "1", "2"}
            assert outcomes["unlucky"].keys() == outcomes["0"].keys()

    def test_a_job_that_kills_every_worker_stops_the_run(self) -> None:
        with self.make(probe()) as pool:
            pool.submit({"key": "poison", "die": True})
            with pytest.raises(RunError) as caught:
                pool.next(PATIENCE)
        for part in ("'poison'", "3 workers", "resume"):
            assert part in str(caught.value)

    def test_close_kills_busy_workers(self) -> None:
        pool = self.make(probe())
        pool.submit({"key": "first"})
        pid = drain(pool)["first"]["pid"]
        for n in range(2 * pool.slots):
            pool.submit({"key": str(n), "sleep": 3600})
        assert is_alive(pid)
        assert pool.next(0.01) is None
        pool.close()
        assert pool.pending == 0
        await_that(lambda: not is_alive(pid))
