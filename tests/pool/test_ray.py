"""Real Ray. The contract shares one local Ray among its pools; the drivers below have their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InputError
from evomerge.pool import Pool, WorkerSpec
from evomerge.pool.ray import RayPool
from evomerge.testing.pools import (
    PATIENCE,
    ProcessPoolContract,
    await_that,
    begun,
    drain,
    is_alive,
    probe,
)

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,  # Ray takes our word for it
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("local_ray")
class TestRayPool(ProcessPoolContract):
    def make(self, spec: WorkerSpec) -> Pool:
        return RayPool(spec, 2)

    def test_workers_import_what_the_driver_can_and_get_their_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "of_a_user.py").write_text(
            "import os\n"
            "found = [os.environ[name] for name in ('OF_A_USER', 'CUDA_VISIBLE_DEVICES')]\n"
            "def build(argument):\n"
            "    return lambda job: {'argument': argument, 'found': found}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        spec = WorkerSpec("of_a_user:build", {"n": 1})
        with RayPool(spec, 1, env={"OF_A_USER": "set"}) as pool:
            pool.submit({"key": "mine"})
            outcome = drain(pool)["mine"]
        assert outcome["argument"] == {"n": 1}
        assert outcome["found"] in (["set", "0"], ["set", "1"]), "one GPU by default"

    @pytest.mark.parametrize(
        ("options", "slots"),
        [
            ({}, 2),
            ({"num_cpus": 2, "num_gpus": 0}, 1),
            ({"num_cpus": 0.5, "num_gpus": 0}, 4),
            ({"num_cpus": 0.1, "num_gpus": 2}, 1),
            ({"num_cpus": 0.1, "num_gpus": 0.5}, 4),
            ({"num_cpus": 0.1, "num_gpus": 0.4}, 4),  # a fraction never spans two devices
        ],
    )
    def test_slots_are_what_there_is_room_for(self, options: dict[str, float], slots: int) -> None:
        with RayPool(probe(), **options) as pool:  # type: ignore[arg-type]
            assert pool.slots == slots

    def test_every_slot_is_a_process_of_its_own(self) -> None:
        with RayPool(probe()) as pool:
            assert pool.pids() == []
            for n in range(4):
                pool.submit({"key": str(n), "sleep": 0.2})
            used = {outcome["pid"] for outcome in drain(pool).values()}
            assert used <= set(pool.pids())
            assert len(set(pool.pids())) <= 2
            assert os.getpid() not in used

    def test_who_tells_nothing_for_too_long_is_named_and_replaced(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "begun"
        with RayPool(probe(), 2, job_limit=2.5) as pool:
            pool.submit({"key": "stuck", "value": 1, "hangs": 1, "begun": str(file)})
            pool.submit({"key": "slow", "value": 2, "steps": 12})  # longer, but tells
            outcomes = drain(pool)
        assert {key: outcome["value"] for key, outcome in outcomes.items()} == {
            "stuck": 1,
            "slow": 2,
        }
        assert outcomes["slow"]["calls"] == 1
        (worker,) = begun(file)
        assert f"the worker of job 'stuck' hangs (pid {worker} on " in caplog.text
        await_that(lambda: not is_alive(worker))

    def test_a_job_that_hangs_every_worker_is_given_up(self, tmp_path: Path) -> None:
        file = tmp_path / "begun"
        with RayPool(probe(), 2, job_limit=1, attempts=2) as pool:
            pool.submit({"key": "stuck", "hangs": 9, "begun": str(file)})
            pool.submit({"key": "fine", "value": 1})
            outcomes = drain(pool)
            assert outcomes["stuck"] == {
                "error": "hung 2 workers: each told nothing for longer than a job may (--job-limit)"
            }
            assert outcomes["fine"]["value"] == 1
            pool.submit({"key": "after", "value": 2})
            assert drain(pool)["after"]["value"] == 2
        assert len(begun(file)) == 2

    def test_a_driver_that_was_away_holds_it_against_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("evomerge.pool.ray._STRIDE", 0.2)
        with RayPool(probe(), 1, job_limit=1.5) as pool:
            pool.submit({"key": "long", "sleep": 3})
            await_that(lambda: pool.next(0.1) is None and pool.look()[0].state == "busy")
            time.sleep(2.5)
            assert drain(pool)["long"]["calls"] == 1

    def test_who_cannot_be_heard_is_not_taken_for_silent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("evomerge.pool.ray.words", lambda ray, names: {})
        with RayPool(probe(), 1, job_limit=0.1) as pool:
            pool.submit({"key": "long", "sleep": 2.5})
            assert drain(pool)["long"]["calls"] == 1

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"3 GPUs.*room for 0"):
            RayPool(probe(), num_gpus=3)
        with pytest.raises(InputError, match=r"3 x 1 CPUs.*room for 2"):
            RayPool(probe(), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers: expected at least 1"),
        ({"num_cpus": -1}, "CPUs per worker"),
        ({"num_cpus": 0}, "CPUs per worker"),
        ({"num_gpus": 1.5}, "a fraction below 1 or a whole number, found 1.5"),
        (
            {"runtime_env": {"env_vars": {"A": 1}}},
            "runtime environment is refused: .*must be of type",
        ),
        ({"runtime_env": {"working_dir": "/nowhere"}}, "runtime environment is refused: /nowhere"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RayPool(probe(), **options)


Driver = subprocess.Popen[str]

DRIVER = """
import logging, os, signal, sys
from evomerge.pool.ray import RayPool
from evomerge.testing.pools import drain, probe

assert "ray" not in sys.modules
logging.basicConfig(level=logging.WARNING)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a shell had it do
handler = signal.SIG_DFL if "terminated" in sys.argv else lambda number, frame: None
signal.signal(signal.SIGTERM, handler)
with RayPool(probe(), 1) as pool:
    assert signal.getsignal(signal.SIGTERM) is handler or handler is signal.SIG_DFL
    pool.submit({"key": "once", "die_unless": sys.argv[1]})
    assert drain(pool)["once"]["key"] == "once"
    for key in "ab":
        pool.submit({"key": key, "sleep": 3600})
    try:
        print("ready", flush=True)
        pool.next()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
assert signal.getsignal(signal.SIGTERM) is handler
"""


@pytest.fixture
def started() -> Iterator[Callable[[Driver], Driver]]:
    """Notes a driver, to be killed if the test fails before it ends."""
    drivers: list[Driver] = []

    def note(driver: Driver) -> Driver:
        drivers.append(driver)
        return driver

    yield note
    for driver in drivers:
        driver.kill()
        driver.communicate()


def test_however_a_driver_ends_it_leaves_no_process_and_a_clean_stdout(
    short_tmp: Path,
    started: Callable[[Driver], Driver],
    processes_marked: Callable[[str], list[int]],
) -> None:
    endings = {  # name -> signal, whether a terminal sends it to the whole group, stdout, status
        "ctrl-c": (signal.SIGINT, True, ["ready", "interrupted"], 0),
        "terminated": (signal.SIGTERM, False, ["ready"], 1),
    }
    mark = uuid.uuid4().hex
    drivers = {}
    for name in endings:
        (short_tmp / name).mkdir()
        drivers[name] = started(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(short_tmp / f"{name} died once"), name],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={key: text for key, text in os.environ.items() if not key.startswith("RAY_")}
                | {
                    "MARK": f"{mark} {name}",
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "TMPDIR": str(short_tmp / name),
                    "HOME": str(short_tmp / name),
                },
            )
        )
    for name, (number, to_group, said, status) in endings.items():
        driver = drivers[name]
        assert driver.stdout is not None and driver.stderr is not None
        first = driver.stdout.readline()
        assert first == "ready\n", driver.stderr.read()
        assert len(processes_marked(f"{mark} {name}")) > 3, "Ray runs"
        (os.killpg if to_group else os.kill)(driver.pid, number)
        rest, errors = driver.communicate(
            timeout=10 * PATIENCE
        )  # Ray is slow to leave a busy machine
        assert (first + rest).splitlines() == said, errors
        assert driver.returncode == status, errors
        assert [line for line in errors.splitlines() if "job 'once' lost" not in line] == []
        assert list((short_tmp / name).iterdir()) == []
    await_that(lambda: not processes_marked(mark))
