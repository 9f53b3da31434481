"""Workers that are made up and answer at once: what is left to measure is the driver."""

from __future__ import annotations

import gc
import json
import time
import zlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.pool import PlainJob, PlainOutcome, PlainWorker, Pool, WorkerSpec

Row = tuple[Any, dict[str, Any]]  # a response, and its metrics
Asked = tuple[str, tuple[str, ...]]  # a scorer, and items


class MadeUp(Pool):
    """Answers as one of the real models did, item by item, drawn anew for each model.

    Base and parents are really asked, once: their answers are kept in ``file`` for every search that follows.

    Args:
        spec: of the real worker.
        file: of what real models answered; made where there is none.
    """

    slots = 1

    def __init__(self, spec: WorkerSpec, file: Path) -> None:
        self._spec, self._file = spec, file
        self._worker: PlainWorker | None = None
        self._queue: deque[PlainJob] = deque()
        self._real: dict[str, PlainOutcome] = {}  # a job -> what came of it
        self._known: dict[str, dict[str, Row]] = {}  # "scorer item" -> model -> what it answered
        self._columns: dict[Asked, list[dict[str, Any]]] = {}  # of the newest items, by model
        self.spent = 0.0  # seconds of CPU that are the workers', not the driver's
        for key, outcome in json.loads(file.read_text()).items() if file.exists() else ():
            self._keep(key, outcome)

    @property
    def pending(self) -> int:
        return len(self._queue)

    def submit(self, job: PlainJob) -> None:
        self._queue.append(job)

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        if not self._queue:
            return None
        began = time.process_time()
        job = self._queue.popleft()
        outcome = self.outcome(job)
        self.spent += time.process_time() - began
        return job, outcome

    def close(self) -> None:
        self._queue.clear()

    def outcome(self, job: PlainJob) -> PlainOutcome:
        """What comes of a job."""
        if _model(job):
            return self._asked(job)
        draw = np.random.default_rng(zlib.crc32(job["key"].encode()))
        return {
            "results": {n: self._drawn(n, ids, draw) for n, ids in job["items"].items()},
            "probe": {n: self._drawn(n, ids, draw) for n, ids in job["probe"].items()} or None,
            "error": None,
            "seconds": {"merge": 0.01, "score": 0.1},
        }

    def _asked(self, job: PlainJob) -> PlainOutcome:
        """What a real model answers."""
        key = json.dumps([_model(job), job["dtype"], job["items"], job["probe"]])
        if key not in self._real:
            self._worker = self._worker or self._spec.build()
            self._keep(key, self._worker(job))
            self._file.write_text(json.dumps(self._real))
            gc.freeze()  # elsewhere a driver has no worker in its process
        return self._real[key]

    def _keep(self, key: str, outcome: PlainOutcome) -> None:
        self._real[key] = outcome
        model = json.loads(key)[0]
        for part in (outcome["probe"], outcome["results"]):
            for name, found in (part or {}).items():
                for row, item in enumerate(found["items"]):
                    metrics = {m: values[row] for m, values in found["metrics"].items()}
                    known = self._known.setdefault(f"{name} {item}", {})
                    known.setdefault(model, (found["responses"][row], metrics))

    def _drawn(self, name: str, ids: list[str], draw: np.random.Generator) -> dict[str, Any]:
        models = self._by_model(name, tuple(ids))
        taken = draw.integers(0, len(models), len(ids)).tolist()
        return {
            "items": ids,
            "responses": [models[at]["responses"][row] for row, at in enumerate(taken)],
            "metrics": {
                metric: [models[at][metric][row] for row, at in enumerate(taken)]
                for metric in models[0]
                if metric != "responses"
            },
            "tokens": 12 * len(ids),
        }

    def _by_model(self, name: str, ids: tuple[str, ...]) -> list[dict[str, Any]]:
        """Of each model its responses and metrics; candidates of a batch are asked the same."""
        if (name, ids) not in self._columns:
            rows = [list(self._known[f"{name} {item}"].values()) for item in ids]
            if len(self._columns) > 64:
                self._columns.clear()
            self._columns[name, ids] = [
                {"responses": [row[at][0] for row in rows]}
                | {metric: [row[at][1][metric] for row in rows] for metric in rows[0][0][1]}
                for at in range(min(map(len, rows)))
            ]
        return self._columns[name, ids]


def _model(job: Mapping[str, Any]) -> str:
    """The model that a job asks as it is; empty for a merge."""
    first = job["recipe"]["groups"][0]
    return str(first["models"][0]) if first["method"] == "passthrough" else ""
