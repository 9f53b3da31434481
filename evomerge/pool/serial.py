"""The pool of one slot, in this process: for tests and laptops."""

from __future__ import annotations

import json

from evomerge.pool import PlainJob, PlainOutcome, Pool, Resident, Slot, WorkerSpec, outcome_of


class SerialPool(Pool):
    """Runs one job per ``next``, in order of submission; a running job outlasts any timeout."""

    slots = 1

    def __init__(self, spec: WorkerSpec) -> None:
        self._resident = Resident(spec.target, json.dumps(spec.argument, allow_nan=False))
        self._jobs: dict[str, tuple[PlainJob, str]] = {}  # key -> job, its text; in order
        self._slot = Slot("starting")

    @property
    def pending(self) -> int:
        return len(self._jobs)

    def submit(self, job: PlainJob) -> None:
        if job["key"] in self._jobs:
            raise ValueError(f"job {job['key']!r} is already pending")
        self._jobs[job["key"]] = job, json.dumps(job, allow_nan=False)

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        if not self._jobs:
            return None
        key, (job, text) = next(iter(self._jobs.items()))
        reply = self._resident.reply(text, self._hear)
        self._slot = Slot("idle")
        del self._jobs[key]
        return job, outcome_of(reply, key)

    def look(self) -> tuple[Slot]:
        return (self._slot,)

    def _hear(self, done: int, total: int) -> None:
        self._slot = Slot("busy", done, total)

    def close(self) -> None:
        self._jobs.clear()
