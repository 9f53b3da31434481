"""The pool on Ray: one actor per slot, on this machine or on a cluster.

The only module that imports Ray, and only when a pool is built. The driver gives an actor one job
at a time and the next when it answers (a round trip takes about a millisecond), so a job that loses
its worker is exactly the job that was running.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from evomerge.errors import InputError, RunError
from evomerge.pool import PlainJob, PlainOutcome, Pool, Slot, WorkerSpec, outcome_of

_log = logging.getLogger("evomerge.pool")

_LOOK_AROUND = 5.0  # seconds between looks for new nodes while waiting
_CONNECT = 10.0  # seconds that a cluster may take to answer
_OBJECT_STORE = 80 << 20  # bytes; replies are text, so the smallest store that Ray allows will do
_PROGRESS = "evomerge-progress"  # keys of the cluster's store that begin so
_LONGEST_FOLDER = 40  # characters; a Unix socket's path below it must stay under 108


@dataclass
class _Task:
    """A pending job: its text, and how many workers died of it."""

    job: PlainJob
    text: str
    lost: int = 0


@dataclass
class _Slot:
    """An actor. ``ref`` is the reply it owes: its pid while it starts, then that to ``task``."""

    actor: Any
    ref: Any
    task: _Task | None = None
    pid: int | None = None
    name: str = ""  # under which it says how far it is
    said: tuple[int, int] = (0, 0)  # done, total


class RayPool(Pool):
    """Resident workers in Ray actors.

    Args:
        spec: how an actor builds its worker.
        workers: number of slots. None: as many as the machine or the cluster has room for, counted
            anew whenever jobs wait, so that new nodes are used.
        address: "local" starts Ray on this machine and stops it at the end; "auto" or "host:port"
            joins a running cluster. A driver that is connected to Ray already stays so.
        num_cpus: CPUs per worker.
        num_gpus: GPUs per worker: a fraction, or a whole number. None: 1 if Ray sees GPUs, else 0.
        env: environment variables of the workers, set before they import anything.
        attempts: how many workers one job may lose before the run stops.

    Workers see the driver's ``sys.path``; on a cluster its folders must exist on every node.

    Raises:
        InputError: Ray is not installed, no cluster answers, or there is no room for ``workers``.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        workers: int | None = None,
        address: str = "local",
        *,
        num_cpus: float = 1.0,
        num_gpus: float | None = None,
        env: Mapping[str, str] | None = None,
        attempts: int = 3,
    ) -> None:
        _check(workers, num_cpus, num_gpus)
        self._workers, self._attempts = workers, attempts
        self._tasks: dict[str, _Task] = {}  # every pending job, by key
        self._backlog: deque[_Task] = deque()  # those that no actor has
        self._slots: list[_Slot] = []
        self._failed_starts = 0  # since the last actor that came up
        self._session = _Session(
            address, None if workers is None else math.ceil(workers * num_cpus)
        )
        self._ray = self._session.ray
        try:
            self._need = {"CPU": num_cpus, "GPU": self._gpus(num_gpus)}
            if self.slots > (room := self._room()):
                found = (
                    f"{self.slots} x {num_cpus:g} CPUs and {self._need['GPU']:g} GPUs for workers "
                    f"were asked for; Ray ({address}) has room for {room}"
                )
                if address == "local":
                    raise InputError(f"{found}. Ask for fewer workers, or for less per worker")
                _log.warning("%s. Jobs wait until nodes join", found)
            path = [os.path.abspath(folder) for folder in sys.path]
            argument = json.dumps(spec.argument, allow_nan=False)
            self._build = (path, dict(env or {}), spec.target, argument)
            self._actor = _actor_class(self._ray).options(
                num_cpus=num_cpus, num_gpus=self._need["GPU"], max_restarts=0, max_task_retries=0
            )
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        return self._workers or max(1, self._room())

    @property
    def pending(self) -> int:
        return len(self._tasks)

    def pids(self) -> list[int]:
        """Process ids of the live workers, on their nodes."""
        return [slot.pid for slot in self._slots if slot.pid is not None]

    def submit(self, job: PlainJob) -> None:
        if job["key"] in self._tasks:
            raise ValueError(f"job {job['key']!r} is already pending")
        task = _Task(job, json.dumps(job, allow_nan=False))
        self._tasks[job["key"]] = task
        self._backlog.append(task)
        self._dispatch()

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self._tasks:
            self._dispatch()
            owing = {slot.ref: slot for slot in self._slots if slot.ref is not None}
            patience = min(_LOOK_AROUND, max(0.0, deadline - time.monotonic()))
            ready, _ = self._ray.wait(list(owing), num_returns=1, timeout=patience)
            if ready:
                answer = self._settle(owing[ready[0]])
                if answer is not None:
                    return answer
            elif time.monotonic() >= deadline:
                break
            else:
                self._listen()
        if self._tasks:
            self._listen()
        return None

    def look(self) -> list[Slot]:
        return [
            Slot("starting") if slot.pid is None
            else Slot("idle") if slot.task is None
            else Slot("busy", *slot.said)
            for slot in list(self._slots)
        ]  # fmt: skip

    def _listen(self) -> None:
        """Read what busy workers said of how far they are; that nothing is read disturbs nobody."""
        for slot in self._slots:
            if slot.task is not None and (said := _said(self._ray, slot.name)):
                slot.said = said

    def close(self) -> None:
        for slot in self._slots if self._ray.is_initialized() else ():
            self._ray.kill(slot.actor)
            _said(self._ray, slot.name, forget=True)
        self._slots.clear()
        self._tasks.clear()
        self._backlog.clear()
        self._session.close()

    def _dispatch(self) -> None:
        """Give waiting jobs to idle actors; start an actor for each left over, if there is room."""
        for slot in self._slots:
            if self._backlog and slot.ref is None:
                slot.task, slot.said = self._backlog.popleft(), (0, 0)
                slot.ref = slot.actor.reply.remote(slot.task.text)
        starting = sum(slot.pid is None for slot in self._slots)
        if len(self._backlog) > starting:
            room = self.slots - len(self._slots)
            for _ in range(min(len(self._backlog) - starting, room)):
                name = f"{_PROGRESS}-{uuid.uuid4().hex}"
                actor = self._actor.remote(*self._build, name)
                self._slots.append(_Slot(actor, actor.start.remote(), name=name))

    def _settle(self, slot: _Slot) -> tuple[PlainJob, PlainOutcome] | None:
        """Take what ``slot`` owed: an answer, or None if it came up or is lost."""
        try:
            reply = self._ray.get(slot.ref)
        except self._ray.exceptions.RayTaskError as error:
            raise RunError(
                "a worker process cannot load evomerge; every node needs the driver's environment. "
                f"It said:\n{error}"
            ) from None
        except self._ray.exceptions.RayError as error:
            self._replace(slot, error)
            return None
        slot.ref = None
        if slot.task is None:
            slot.pid = reply
            self._failed_starts = 0
            return None
        task, slot.task = slot.task, None
        key = task.job["key"]
        del self._tasks[key]
        return task.job, outcome_of(reply, key)

    def _replace(self, slot: _Slot, error: Exception) -> None:
        """Forget a dead actor; its job goes first to whichever is free next."""
        self._slots.remove(slot)
        reason = textwrap.shorten(str(error), 400)
        if slot.task is None:
            self._failed_starts += 1
            _log.warning("a worker died as it started: %s", reason)
            if self._failed_starts >= self._attempts * self.slots:
                raise RunError(
                    f"workers keep dying as they start, {self._failed_starts} in a row. Fix the "
                    f"cause and resume the run. The last one: {reason}"
                )
            return
        task, key = slot.task, slot.task.job["key"]
        task.lost += 1
        _log.warning(
            "job %r lost its worker (pid %s), time %d: %s", key, slot.pid, task.lost, reason
        )
        if task.lost >= self._attempts:
            raise RunError(
                f"job {key!r} lost {task.lost} workers: the process died each time, most often for "
                "lack of memory. This is not held against the candidate: use fewer workers or a "
                f"larger machine, and resume the run. The last one: {reason}"
            )
        self._backlog.appendleft(task)

    def _gpus(self, asked: float | None) -> float:
        """GPUs per worker."""
        if asked is not None:
            return asked
        return 1.0 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0.0

    def _room(self) -> int:
        """How many workers the live nodes have room for, were they empty."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            min(_fitting(node.get(name, 0.0), need) for name, need in self._need.items() if need)
            for node in nodes
        )


class _Session:
    """The driver's connection to Ray: as quiet as Ray can be, and gone when closed."""

    def __init__(self, address: str, num_cpus: int | None) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._owned = False
        self._on_sigterm = signal.getsignal(signal.SIGTERM)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning
        try:
            import ray
        except ImportError:
            raise InputError(
                "Ray is not installed: pip install ray, or search with --ray off"
            ) from None
        self.ray: Any = ray
        if ray.is_initialized():
            return
        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"address": address}
        if address == "local":
            parent = tempfile.gettempdir()
            self._folder = tempfile.TemporaryDirectory(
                prefix="evomerge-",
                dir=parent if len(parent) <= _LONGEST_FOLDER else "/tmp",
                ignore_cleanup_errors=True,
            )
            options |= {
                "num_cpus": num_cpus,
                "object_store_memory": _OBJECT_STORE,
                "include_dashboard": False,
                "_temp_dir": self._folder.name,
            }
        try:
            _expect_listener(address)
            ray.init(
                namespace="evomerge", log_to_driver=False, logging_level=logging.ERROR, **options
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            self._forget_folder()
            if address == "local":
                raise RunError(f"Ray does not start on this machine: {error}") from error
            raise InputError(
                f"--ray {address}: no Ray cluster answers there; start one with 'ray start --head' "
                f"or use --ray local. Ray said: {error}"
            ) from None
        self._owned = True
        # Ray reports deaths of processes on stdout, which is for results; the pool logs them.
        ray._private.worker._worker_logs_enabled = False
        # Ray's own handler dumps a stack and hides the driver's. By default, leave through Python,
        # which stops the workers.
        default = self._on_sigterm is signal.SIG_DFL
        _handle_sigterm(_exit if default else self._on_sigterm)

    def close(self) -> None:
        if self._owned:
            self._owned = False
            self.ray.shutdown()
            self._forget_folder()
            _handle_sigterm(self._on_sigterm)

    def _forget_folder(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _said(ray: Any, name: str, *, forget: bool = False) -> tuple[int, int] | None:
    """What a worker wrote into the cluster's own store, ``done total``, if anything."""
    with suppress(Exception):  # no more than a look
        store = ray.experimental.internal_kv
        if forget:
            store._internal_kv_del(name.encode())
        elif content := store._internal_kv_get(name.encode()):
            done, total = map(int, content.split())
            return done, total
    return None


def _handle_sigterm(handler: Any) -> None:
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _exit(number: int, frame: object) -> None:
    sys.exit(1)  # whatever the status, Ray's calls turn it into 1


def _expect_listener(address: str) -> None:
    """Raise OSError unless something answers at host:port; Ray itself tries for five minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()


def _actor_class(ray: Any) -> Any:
    """The actor; local to a function, so that Ray sends its code and imports nothing for it.

    That leaves ``sys.path`` and the environment to be set first, without a Ray runtime environment,
    which would take two seconds more at the start.
    """

    class Actor:
        def __init__(
            self, path: list[str], env: dict[str, str], target: str, argument: str, name: str
        ) -> None:
            import os
            import sys

            os.environ.update(env)
            sys.path[:] = path + [folder for folder in sys.path if folder not in path]
            self._spec = target, argument
            self._resident: Any = None
            self._name, self._told = name.encode(), 0.0

        def start(self) -> int:
            import os

            from evomerge.pool import Resident

            self._resident = Resident(*self._spec)
            return os.getpid()

        def reply(self, job: str) -> str:
            return str(self._resident.reply(job, self._tell))

        def _tell(self, done: int, total: int) -> None:
            import time

            now = time.monotonic()
            if now - self._told < 0.5:
                return
            self._told = now
            try:
                from ray.experimental.internal_kv import _internal_kv_put

                _internal_kv_put(self._name, f"{done} {total}".encode(), overwrite=True)
            except Exception:
                pass  # nobody is to fail for that

    return ray.remote(Actor)


def _check(workers: int | None, num_cpus: float, num_gpus: float | None) -> None:
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, found {workers}")
    if num_cpus < 0 or (num_cpus == 0 and not num_gpus):
        raise InputError(f"CPUs per worker: expected a number above 0, found {num_cpus:g}")
    if num_gpus is not None and (num_gpus < 0 or (num_gpus > 1 and num_gpus % 1)):
        raise InputError(
            f"GPUs per worker: expected a fraction below 1 or a whole number, found {num_gpus:g}"
        )


def _fitting(have: float, need: float) -> int:
    """How many shares of ``need`` fit; a fraction never spans two devices."""
    if need < 1:
        return math.floor(have) * math.floor(1 / need + 1e-9)
    return math.floor(have / need)
