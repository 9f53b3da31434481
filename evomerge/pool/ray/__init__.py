"""The pool on Ray: one actor per slot, on this machine or on a cluster.

The only package that imports Ray, and only when a pool is built. The driver gives an actor one job
at a time and the next when it answers (a round trip takes about a millisecond), so a job that loses
its worker is exactly the job that was running.

Nodes come and go, workers die and hang. Which of that happens shows in what is logged, never in an answer:
a job is answered by whichever worker answers it first, and all answer alike. One thing alone is told as an
answer: a job that hung every worker it was given.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import InputError, RunError
from evomerge.pool import PlainJob, PlainOutcome, Pool, Slot, WorkerSpec, given_up, outcome_of
from evomerge.pool.ray.actor import actor_class
from evomerge.pool.ray.losses import Kind, Loss, kind_of, reason_of, verdict
from evomerge.pool.ray.nodes import Need, Node, nodes_of
from evomerge.pool.ray.session import Session
from evomerge.pool.ray.silence import Silence
from evomerge.pool.ray.telling import Word, forget, kills, words

_log = logging.getLogger("evomerge.pool")

_LOOK = 1.0  # seconds between looks at nodes and workers
_STRIDE = 5.0  # seconds; when the driver itself was away for longer, it cannot say who was silent
_VERDICT = 20.0  # seconds until a node that takes its workers with it is known to be gone
_PREFIX = "evomerge-progress"  # keys of the cluster's store that begin so


@dataclass(eq=False)
class _Task:
    """A pending job: its text, the workers that died of it, and how many hung."""

    job: PlainJob
    text: str
    losses: list[Loss] = field(default_factory=list)
    hung: int = 0

    @property
    def key(self) -> str:
        return str(self.job["key"])


@dataclass(eq=False)
class _Slot:
    """An actor.

    Attributes:
        ref: the reply it owes: who it is while it starts, then that it is built, then that to ``task``.
        name: under which it tells how far it is.
        turn: how many jobs it was given.
        since: when it was given what it does.
        silent: seconds for which nothing was heard of that, as far as the driver listened.
        leaving: it gets nothing more.
        loss: why it cannot be reached is being asked.
    """

    actor: Any
    ref: Any
    name: str
    task: _Task | None = None
    pid: int | None = None
    node: str = ""
    where: str = "a node"  # for people
    built: bool = False
    word: Word = field(default_factory=Word)
    turn: int = 0
    since: float = 0.0
    silent: float = 0.0
    leaving: bool = False
    loss: Loss | None = None

    def ask(self, ref: Any) -> None:
        """It owes ``ref`` from now on."""
        self.ref, self.since, self.silent = ref, time.monotonic(), 0.0

    def take(self, task: _Task) -> None:
        self.task, self.turn = task, self.turn + 1
        self.ask(self.actor.reply.remote(task.text))

    @property
    def said(self) -> tuple[int, int]:
        """Items of its job that are done, of how many; 0 of 0 if it did not tell."""
        return (self.word.done, self.word.total) if self.word.turn == self.turn else (0, 0)

    @property
    def who(self) -> str:
        return (
            f"pid {self.pid} on {self.where}" if self.pid else f"one that started on {self.where}"
        )


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
        resources: other resources per worker, as the nodes were given them.
        labels: conditions on the labels of nodes, as Ray writes them.
        runtime_env: of the workers, as Ray takes it.
        env: environment variables of the workers, set before they import anything.
        attempts: how many workers one job may lose on healthy nodes before the run stops, and how many may
            hang before it is given up.
        job_limit: seconds that a job may tell nothing before its worker counts as hung; infinity: any; None:
            learned from the jobs before.

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
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        attempts: int = 3,
        job_limit: float | None = None,
    ) -> None:
        _check(workers, num_cpus, num_gpus)
        self._workers, self._attempts = workers, attempts
        self._tasks: dict[str, _Task] = {}  # every pending job, by key
        self._backlog: deque[_Task] = deque()  # those that no actor has
        self._held: list[_Task] = []  # those that await a verdict
        self._hopeless: deque[_Task] = deque()  # those to answer as given up
        self._slots: list[_Slot] = []
        self._started = 0  # actors, ever
        self._lost_starts: list[Loss] = []  # since the last actor that came up
        self._silence = Silence(job_limit)
        self._kills: dict[str, int] = {}  # of a node's kernel, as told last
        self._prefix = f"{_PREFIX}-{uuid.uuid4().hex}"
        self._session = Session(
            address, None if workers is None else math.ceil(workers * num_cpus), runtime_env
        )
        self._ray = self._session.ray
        self._nodes: dict[str, Node] = {}
        self._looked = self._listened = -math.inf  # when
        try:
            self._look_at_nodes()
            others = dict(resources or {})
            self._need = Need(
                {"CPU": num_cpus, "GPU": self._gpus(num_gpus), **others}, dict(labels or {})
            )
            if self.slots > (room := self._need.room(self._nodes)):
                self._refuse(address, room, num_gpus)
            path = [os.path.abspath(folder) for folder in sys.path]
            argument = json.dumps(spec.argument, allow_nan=False)
            self._build = (path, dict(env or {}), spec.target, argument)
            options: dict[str, Any] = {
                "num_cpus": num_cpus,
                "num_gpus": self._need.resources["GPU"],
            }
            if memory := others.pop("memory", None):
                options["memory"] = memory
            if others:
                options["resources"] = others
            if labels:
                options["label_selector"] = dict(labels)
            if runtime_env and not self._session.owned:
                options["runtime_env"] = dict(runtime_env)
            self._actor = _with(actor_class(self._ray), options)
        except BaseException:
            self.close()
            raise

    def _refuse(self, address: str, room: int, num_gpus: float | None) -> None:
        """Say that there is less room than was asked for; where nodes may join, that is no error."""
        amounts = [f"{self._need.resources['CPU']:g} CPUs and {self._need.resources['GPU']:g} GPUs"]
        amounts += [
            f"{amount:g} {name}"
            for name, amount in self._need.resources.items()
            if name not in ("CPU", "GPU")
        ]
        amounts += [f"{name}={text}" for name, text in self._need.labels.items()]
        found = (
            f"{self.slots} x {', '.join(amounts)} for workers were asked for; Ray ({address}) has "
            f"room for {room}"
        )
        if address == "local":
            raise InputError(f"{found}. Ask for fewer workers, or for less per worker")
        hint = "" if num_gpus is not None else "; if those have GPUs, give --num-gpus"
        _log.warning("%s. Jobs wait until nodes join%s", found, hint)

    @property
    def slots(self) -> int:
        if self._workers:
            return self._workers
        if time.monotonic() - self._looked >= _LOOK and self._session.present:
            self._look_at_nodes()
        return max(1, self._need.room(self._nodes))

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
        self._tasks[task.key] = task
        self._backlog.append(task)
        self._dispatch()

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self._tasks:
            self._look_around()
            if self._hopeless:
                return self._give_up(self._hopeless.popleft())
            self._dispatch()
            owing = {slot.ref: slot for slot in self._slots if slot.ref is not None}
            patience = min(_LOOK, max(0.0, deadline - time.monotonic()))
            if owing:
                ready, _ = self._ray.wait(list(owing), num_returns=1, timeout=patience)
            else:  # all that is left awaits a verdict
                ready = []
                time.sleep(patience)
            if ready:
                answer = self._settle(owing[ready[0]])
                if answer is not None:
                    return answer
            elif time.monotonic() >= deadline:
                break
        return None

    def look(self) -> list[Slot]:
        return [
            Slot("starting") if not slot.built
            else Slot("idle") if slot.task is None
            else Slot("busy", *slot.said, limit=self._silence.stated(slot.said[1]))
            for slot in list(self._slots)
        ]  # fmt: skip

    def close(self) -> None:
        if self._slots and self._ray.is_initialized() and self._session.reached:
            for slot in self._slots:
                self._ray.kill(slot.actor)
            forget(self._ray, self._prefix)
        for each in (self._slots, self._tasks, self._backlog, self._held, self._hopeless):
            each.clear()
        self._session.close()

    # -- handing out ----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give waiting jobs to idle actors; start an actor for each left over, if there is room."""
        for slot in self._slots:
            if self._backlog and slot.ref is None and not slot.leaving:
                slot.take(self._backlog.popleft())
        starting = sum(not slot.built and not slot.leaving for slot in self._slots)
        if len(self._backlog) > starting and self._session.reached:
            room = self.slots - sum(not slot.leaving for slot in self._slots)
            for _ in range(min(len(self._backlog) - starting, room)):
                name = f"{self._prefix}-{self._started}"
                self._started += 1
                actor = self._actor.remote(*self._build, name)
                self._slots.append(_Slot(actor, actor.start.remote(), name))

    def _settle(self, slot: _Slot) -> tuple[PlainJob, PlainOutcome] | None:
        """Take what ``slot`` owed: an answer, or None if it came up or is lost."""
        errors = self._ray.exceptions
        try:
            reply = self._ray.get(slot.ref)
        except errors.RayTaskError as error:
            raise RunError(
                "a worker process cannot load evomerge; every node needs the driver's environment. "
                f"It said:\n{error}"
            ) from None
        except errors.RuntimeEnvSetupError as error:
            raise RunError(f"a worker's runtime environment cannot be made: {error}") from None
        except errors.RayError as error:
            self._lose(slot, error)
            return None
        slot.ref = None
        if slot.loss is not None:  # the network was gone, and is back
            self._drop(slot)
        elif slot.pid is None:
            slot.pid, slot.node, killed = reply
            slot.word = Word(kills=killed)
            slot.where = self._name_of(slot.node)
            slot.ask(slot.actor.build.remote())
        elif not slot.built:
            if reply is not None:
                outcome_of(reply, None, self._elsewhere(slot))
            slot.built = True
            self._lost_starts.clear()
        elif slot.task is not None:
            task, slot.task = slot.task, None
            if slot.leaving:
                self._drop(slot)
            if self._tasks.get(task.key) is task:  # else another worker was faster
                self._silence.learn(time.monotonic() - slot.since, slot.said[1])
                self._withdraw(task)
                return task.job, outcome_of(reply, task.key, self._elsewhere(slot))
        return None

    def _withdraw(self, task: _Task) -> None:
        """It is answered: nobody else is to begin with it, and who only stayed for it need not."""
        del self._tasks[task.key]
        for line in (self._backlog, self._held, self._hopeless):
            if task in line:
                line.remove(task)
        for slot in [slot for slot in self._slots if slot.leaving and slot.task is task]:
            self._drop(slot)

    def _give_up(self, task: _Task) -> tuple[PlainJob, PlainOutcome]:
        self._withdraw(task)
        return task.job, given_up(
            f"hung {task.hung} workers: each told nothing for longer than a job may (--job-limit)"
        )

    def _drop(self, slot: _Slot) -> None:
        """End an actor, whatever it does."""
        self._slots.remove(slot)
        if self._session.present:
            self._ray.kill(slot.actor)

    def _hand_on(self, task: _Task) -> None:
        """Let another worker have it first of all, if none has it and it is not answered."""
        under_way = any(slot.task is task and not slot.leaving for slot in self._slots)
        if self._tasks.get(task.key) is task and not under_way and task not in self._backlog:
            self._backlog.appendleft(task)

    # -- looking after workers ------------------------------------------------------------------

    def _look_around(self) -> None:
        """See, about once a second, to nodes that go, workers that hang and jobs that keep losing theirs."""
        now = time.monotonic()
        passed = now - self._listened
        if passed < _LOOK or not self._session.present:
            return
        self._listened = now
        self._look_at_nodes()
        if self._session.node not in self._nodes:
            raise RunError(
                "this machine's own node of the Ray cluster is gone: its raylet died. What was answered "
                "is kept: start it again, and resume the run"
            )
        self._listen(min(passed, _STRIDE))
        for slot in list(self._slots):
            if self._is_to_go(slot.node) and not slot.leaving:
                self._leave(slot)
            elif self._is_hung(slot):
                self._end_hung(slot)
        held, self._held = self._held, []
        for task in held:
            self._judge(task)

    def _look_at_nodes(self) -> None:
        self._nodes, self._looked = nodes_of(self._ray), time.monotonic()

    def _is_to_go(self, node: str) -> bool:
        return node in self._nodes and self._nodes[node].draining

    def _listen(self, passed: float) -> None:
        """Read what workers told since, ``passed`` seconds ago."""
        heard = words(self._ray, [slot.name for slot in self._slots if slot.pid is not None])
        for slot in self._slots:
            if (word := heard.get(slot.name)) is None:
                continue  # who cannot be heard is not silent
            alike = (word.turn, word.told) == (slot.word.turn, slot.word.told)
            slot.silent = slot.silent + passed if alike else 0.0
            slot.word = word
            self._kills[slot.node] = max(word.kills or 0, self._kills.get(slot.node, 0))

    def _leave(self, slot: _Slot) -> None:
        """Its node is to go: what it has is handed on, and whoever is first answers."""
        slot.leaving = True
        if slot.task is None:
            self._drop(slot)
            return
        _log.warning("%s is to go: job %r is handed on (%s)", slot.where, slot.task.key, slot.who)
        self._hand_on(slot.task)

    def _is_hung(self, slot: _Slot) -> bool:
        if slot.ref is None or slot.pid is None or slot.loss is not None:
            return False  # it does nothing, waits for room, or is asked after
        limit = self._silence.limit(slot.said[1]) if slot.built else self._silence.building
        return slot.silent > limit and not self._ray.wait([slot.ref], timeout=0)[0]

    def _end_hung(self, slot: _Slot) -> None:
        doing = f"job {slot.task.key!r}" if slot.task else "its start"
        _log.warning(
            "the worker of %s hangs (%s): it told nothing for %.0f s. It is killed and replaced",
            doing,
            slot.who,
            slot.silent,
        )
        self._drop(slot)
        task = slot.task
        if task is None:
            self._lost_start(self._loss(slot, Kind.HUNG, "nothing"))
        elif not slot.leaving and self._tasks.get(task.key) is task:
            task.hung += 1
            if task.hung >= self._attempts:
                self._hopeless.append(task)
            else:
                self._hand_on(task)

    # -- losses ---------------------------------------------------------------------------------

    def _lose(self, slot: _Slot, error: Exception) -> None:
        """An actor is gone, or out of reach: its job goes first to whichever is free next."""
        kind, reason = kind_of(self._ray, error), reason_of(error)
        if (loss := slot.loss) is not None:  # now it is known why
            loss.kind, loss.reason = kind, reason
            self._drop(slot)
        else:
            loss = self._loss(slot, kind, reason)
            if kind is Kind.UNREACHED and slot.pid is not None:
                slot.loss, slot.leaving = loss, True
                slot.ask(slot.actor.start.remote())
            else:
                self._drop(slot)
        task = slot.task
        if task is None:
            self._lost_start(loss)
            return
        if loss not in task.losses:
            task.losses.append(loss)
        _log.warning(
            "job %r lost its worker (%s), time %d: %s",
            task.key,
            loss.text,
            len(task.losses),
            reason,
        )
        self._judge(task)

    def _loss(self, slot: _Slot, kind: Kind, reason: str) -> Loss:
        return Loss(
            kind=kind,
            node=slot.node,
            who=slot.who,
            memory=slot.word.memory,
            kills=slot.word.kills,
            at=time.monotonic(),
            reason=reason,
        )

    def _lost_start(self, loss: Loss) -> None:
        """A worker died before it was there."""
        _log.warning("a worker died as it started (%s): %s", loss.text, loss.reason)
        if loss not in self._lost_starts:
            self._lost_starts.append(loss)
        faults = self._faults(self._lost_starts)
        if len(faults) >= self._attempts * self.slots:
            raise RunError(
                f"workers keep dying as they start, {len(faults)} in a row: {verdict(faults)}. Then "
                "resume the run"
            )

    def _judge(self, task: _Task) -> None:
        """Hand a job on that lost a worker, unless it lost too many for which no node is to blame."""
        if self._tasks.get(task.key) is not task:
            return
        faults = self._faults(task.losses)
        if len(faults) < self._attempts:
            self._hand_on(task)
            return
        # a node that dies may take its workers first, and be known to be gone only later
        known = all(loss.node == self._session.node for loss in faults)
        if not known and time.monotonic() - faults[-1].at < _VERDICT:
            if task not in self._held:
                self._held.append(task)
            return
        raise RunError(
            f"job {task.key!r} lost {len(faults)} workers on healthy nodes: {verdict(faults)}. This is "
            "not held against the candidate: mend it, and resume the run"
        )

    def _faults(self, losses: Sequence[Loss]) -> list[Loss]:
        """Those that are not their nodes' fault; where a kernel says that it was short of memory, so do they."""
        staying = {name for name, node in self._nodes.items() if not node.draining}
        self._kills[self._session.node] = kills()
        for loss in losses:
            loss.learn(self._kills.get(loss.node, 0))
        return [loss for loss in losses if loss.is_fault(staying)]

    # -- what there is --------------------------------------------------------------------------

    def _gpus(self, asked: float | None) -> float:
        """GPUs per worker."""
        if asked is not None:
            return asked
        return float(any(node.resources.get("GPU", 0) >= 1 for node in self._nodes.values()))

    def _name_of(self, node: str) -> str:
        return self._nodes[node].name if node in self._nodes else f"a node ({node[:6]})"

    def _elsewhere(self, slot: _Slot) -> str:
        """Where something went wrong, if that is not where the driver is."""
        return "" if slot.node == self._session.node else f"on {slot.where}: "


def _with(actor: Any, options: Mapping[str, Any]) -> Any:
    """The actor class, placed as asked.

    Raises:
        InputError: this Ray does not know an option, or not what it says.
    """
    try:
        return actor.options(max_restarts=0, max_task_retries=0, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"Ray refuses this placement of workers: {error}") from None


def _check(workers: int | None, num_cpus: float, num_gpus: float | None) -> None:
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, found {workers}")
    if num_cpus < 0 or (num_cpus == 0 and not num_gpus):
        raise InputError(f"CPUs per worker: expected a number above 0, found {num_cpus:g}")
    if num_gpus is not None and (num_gpus < 0 or (num_gpus > 1 and num_gpus % 1)):
        raise InputError(
            f"GPUs per worker: expected a fraction below 1 or a whole number, found {num_gpus:g}"
        )
