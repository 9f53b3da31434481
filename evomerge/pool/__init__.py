"""Where jobs run: the pool protocol, and the worker as a pool holds it.

What crosses the border between driver and worker is plain data, in every pool: jobs and outcomes
travel as JSON text, so an outcome is the same whichever pool it comes from. An exception cannot
travel; it goes as a reply that says what was raised.
"""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

from evomerge.errors import CheckpointError, InputError, NotMeasured, RunError, panicked

PlainJob = Mapping[str, Any]
"""Plain JSON data. ``job["key"]`` is a text that no other pending job has."""

PlainOutcome = dict[str, Any]
"""Plain JSON data, as the worker returned it; of a job that was given up ``{"error": why}`` alone."""

PlainWorker = Callable[[PlainJob], PlainOutcome]

Heard = Callable[[int, int], None]
"""Is told how far a job is: items done, of how many."""

P = TypeVar("P", bound="Pool")


@dataclass(frozen=True)
class WorkerSpec:
    """How to build a worker anywhere: ``callable(argument)``, found by its name.

    The worker is built once per slot and stays resident; it is called as ``worker(job)``. What goes
    wrong with a candidate is data that it returns; what it raises stops the run.
    """

    target: str  # "package.module:callable"
    argument: Mapping[str, Any]

    def build(self) -> PlainWorker:
        """Import the target and call it."""
        module, _, name = self.target.partition(":")
        worker: PlainWorker = getattr(importlib.import_module(module), name)(self.argument)
        return worker


@dataclass(frozen=True)
class Slot:
    """What a worker does: for people to look at, never to decide by.

    Attributes:
        state: ``starting``, ``busy`` or ``idle``.
        done, total: items of the job that it is at, as far as it told; 0 of 0 if it did not.
        limit: seconds that it may tell nothing of the job before it counts as hung; None: nobody watches.
    """

    state: str
    done: int = 0
    total: int = 0
    limit: float | None = None


class Pool(Protocol):
    """Runs jobs and answers each one exactly once, in order of completion."""

    @property
    def slots(self) -> int:
        """How many jobs can run at the same time, now."""
        ...

    @property
    def pending(self) -> int:
        """How many jobs were submitted and not answered yet."""
        ...

    def submit(self, job: PlainJob) -> None:
        """Queue ``job``; returns at once.

        Raises:
            ValueError: a pending job has the same key.
            TypeError, ValueError: the job is not plain JSON data.
        """
        ...

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        """Any finished job with its outcome; None after ``timeout`` seconds or if none is pending.

        Raises:
            InputError: raised while a worker was built (the user's files are wrong).
            RunError: anything else a worker raised, or a job kept losing its worker.
        """
        ...

    def look(self) -> Sequence[Slot]:
        """What each worker did when it was last heard of; may be called from any thread, at once."""
        return ()

    def close(self) -> None:
        """Stop now, drop what is pending and leave no process; closing twice is fine."""
        ...

    def __enter__(self: P) -> P:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Resident:
    """One worker behind the border: built at its first job, text in, text out, never raising."""

    def __init__(self, target: str, argument: str) -> None:
        self._spec = WorkerSpec(target, json.loads(argument))
        self._worker: PlainWorker | None = None

    def build(self) -> str | None:
        """Build the worker, if it is not; the reply that says why that cannot be, or None."""
        try:
            if self._worker is None:
                self._worker = self._spec.build()
        except InputError as error:
            return json.dumps({"input_error": str(error)})
        except RunError as error:  # which says whole what is wrong
            return json.dumps({"run_error": str(error)})
        except Exception:
            return json.dumps({"traceback": traceback.format_exc()})
        return None

    def reply(self, job: str, heard: Heard | None = None) -> str:
        """The worker's reply to ``job``; ``outcome_of`` opens it. ``heard`` is told how far it is."""
        if (failure := self.build()) is not None:
            return failure
        assert self._worker is not None
        try:
            if heard is not None and hasattr(self._worker, "heard"):
                self._worker.heard = heard
            return json.dumps({"outcome": self._worker(json.loads(job))}, allow_nan=False)
        except NotMeasured as error:  # on this machine: its cache is not the driver's
            return json.dumps({"input_error": str(error)})
        except (RunError, CheckpointError) as error:  # which say whole what is wrong
            return json.dumps({"run_error": str(error)})
        except BaseException as error:
            if not (isinstance(error, Exception) or panicked(error)):
                raise
            return json.dumps({"traceback": traceback.format_exc()})


def given_up(why: str) -> PlainOutcome:
    """The outcome of a job that no worker answers."""
    return {"error": why}


def outcome_of(reply: str, key: str | None, where: str = "") -> PlainOutcome:
    """The outcome in a worker's reply to the job ``key``, or what the worker raised ``where`` it is.

    Without a key the reply is that it could not be built.

    Raises:
        InputError, RunError: see ``Pool.next``.
    """
    content = json.loads(reply)
    if "input_error" in content:
        raise InputError(f"{where}{content['input_error']}")
    if "run_error" in content:
        raise RunError(f"{where}{content['run_error']}")
    if "traceback" in content:
        failed = (
            "a worker could not be built" if key is None else f"the worker failed on job {key!r}"
        )
        raise RunError(
            f"{where}{failed}. This is not the candidate's fault: fix the cause "
            f"and resume the run. The worker said:\n{content['traceback']}"
        )
    outcome: PlainOutcome = content["outcome"]
    return outcome
