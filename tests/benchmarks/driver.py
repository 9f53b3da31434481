"""What the driver itself takes: milliseconds an evaluation, memory, and how busy it keeps its workers.

    python tests/benchmarks/driver.py cost [--evaluations 2000 10000 100000] [--display]
    python tests/benchmarks/driver.py busy [--slots 64] [--sigma 1.0]

Both run real searches on the demo's models and tasks (14 genes, four objectives that are estimated, journal
and store on the disk) whose workers are made up: base and parents are really scored, once; whatever else is asked answers each item as one of
them did, drawn anew for each model.

* ``cost``: workers answer at once. Prints, by thousands of evaluations, milliseconds of CPU of the driver
  for each (the pool's own are taken off; waiting for the disk is not counted), and how much memory it holds by then beside what lies on the disk;
  then how long it takes to fold the journal again.
* ``busy``: workers take log-normal times (``sigma`` of the logarithm, median 1) in simulated time, in
  which the driver takes none. Prints the part of the slots' time that is worked, by population and lag.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import os
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from evomerge import config, seeds  # noqa: E402
from evomerge.pool import PlainJob, PlainOutcome, PlainWorker, Pool, WorkerSpec  # noqa: E402
from evomerge.record.events import JOURNAL, RESPONSES  # noqa: E402
from evomerge.run import loop  # noqa: E402
from evomerge.run.loop import Listener  # noqa: E402

DEMO = HERE.parents[1] / "runs" / "demo" / "run.yaml"
MEGABYTE = 2**20
SPACE = {
    "methods": ["task_arithmetic"],
    "groups": {"layers": 2, "roles": ["attn", "mlp", "norm"]},
    "parameters": {"weight": {"range": [0, 1.5]}},
    "start": ["parents", "uniform", "task_arithmetic", "ties", "widen"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "busy"))
    parser.add_argument("--evaluations", type=int, nargs="+", default=[2000, 10_000, 100_000])
    parser.add_argument("--population", type=int, default=24)
    parser.add_argument("--optimizer", default="cma")
    parser.add_argument(
        "--display", action="store_true", help="with the live display, to /dev/null"
    )
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--sigma", type=float, default=1.0)
    options = parser.parse_args()
    if options.what == "cost":
        for count in options.evaluations:
            cost(count, options.population, options.optimizer, options.display)
    else:
        busy(options.slots, options.sigma)


def run_folder(parent: Path, changes: Mapping[str, Any]) -> Path:
    """A folder with the demo's job, changed."""
    plain = config.read(DEMO).plain
    plain["fitness"] = str((DEMO.parent / plain["fitness"]).resolve())
    plain["space"] = SPACE
    folder = Path(tempfile.mkdtemp(dir=parent))
    config.write_text(folder / "run.yaml", config.dump({**plain, **changes}))
    return folder


# -- made-up workers --------------------------------------------------------------------------------


class MadeUp(Pool):
    """Answers as one of the real models did, item by item, in simulated time.

    Args:
        spec: of the real worker, which base and parents are asked of.
        slots: jobs at a time.
        seconds: job -> simulated seconds it takes.
    """

    _kept: ClassVar[dict[str, dict[str, Any]]] = {}  # answers of a real model to an item

    def __init__(
        self,
        spec: WorkerSpec,
        slots: int = 1,
        seconds: Callable[[PlainJob], float] = lambda job: 0.0,
    ) -> None:
        self._spec, self._slots, self._seconds = spec, slots, seconds
        self._worker: PlainWorker | None = None
        self._queue: deque[PlainJob] = deque()
        self._running: list[tuple[float, int, PlainJob]] = []
        self._number = 0
        self.now = 0.0  # simulated
        self.worked = 0.0  # simulated, summed over slots
        self.spent = 0.0  # CPU

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def pending(self) -> int:
        return len(self._queue) + len(self._running)

    def submit(self, job: PlainJob) -> None:
        began = time.process_time()
        self._queue.append(job)
        self._start()
        self.spent += time.process_time() - began

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        began = time.process_time()
        if not self._running:
            return None
        after = self._running[0][0]
        self.worked += len(self._running) * (after - self.now)
        self.now, _, job = heapq.heappop(self._running)
        self._start()
        outcome = self._outcome(job)
        self.spent += time.process_time() - began
        return job, outcome

    def close(self) -> None:
        self._queue.clear()
        self._running.clear()

    def _start(self) -> None:
        while self._queue and len(self._running) < self._slots:
            job = self._queue.popleft()
            seconds = self._seconds(job)
            self._number += 1
            heapq.heappush(self._running, (self.now + seconds, self._number, job))

    def _outcome(self, job: PlainJob) -> PlainOutcome:
        groups = job["recipe"]["groups"]
        real = groups[0]["method"] == "passthrough"
        if real:
            outcome = self._real(job)
            for part in (outcome["probe"], outcome["results"]):
                self._keep(groups[0]["models"][0], part or {})
            return outcome
        draw = np.random.default_rng(zlib.crc32(job["key"].encode()))
        return {
            "results": {n: self._drawn(n, ids, draw) for n, ids in job["items"].items()},
            "probe": {n: self._drawn(n, ids, draw) for n, ids in job["probe"].items()} or None,
            "error": None,
            "seconds": {"merge": 0.01, "score": 0.1},
        }

    def _real(self, job: PlainJob) -> PlainOutcome:
        if self._worker is None:
            self._worker = self._spec.build()
        return self._worker(job)

    def _keep(self, model: str, results: Mapping[str, Any]) -> None:
        for name, part in results.items():
            for row, item in enumerate(part["items"]):
                metrics = {m: values[row] for m, values in part["metrics"].items()}
                known = self._kept.setdefault(f"{name} {item}", {})
                known[model] = part["responses"][row], metrics

    def _drawn(self, name: str, ids: list[str], draw: np.random.Generator) -> dict[str, Any]:
        rows = [list(self._kept[f"{name} {item}"].values()) for item in ids]
        taken = [row[at] for row, at in zip(rows, draw.integers(0, 3, len(rows)), strict=True)]
        metrics = {metric: [found[metric] for _, found in taken] for metric in taken[0][1]}
        responses = [response for response, _ in taken]
        return {"items": ids, "responses": responses, "metrics": metrics, "tokens": 12 * len(ids)}


# -- cost -------------------------------------------------------------------------------------------


class Clock(Listener):
    """Notes seconds and memory by thousands of evaluations; what it is told goes on to ``display``."""

    def __init__(self, display: Listener | None) -> None:
        self.display = display or Listener()
        self.pool: MadeUp | None = None
        self.count = 0
        self.rows: list[tuple[int, float, int]] = []

    def make(self, spec: WorkerSpec) -> MadeUp:
        self.pool = MadeUp(spec)
        return self.pool

    def say(self, text: str) -> None:
        self.display.say(text)

    def started(self, run: Any, search: Any, *rest: Any) -> None:
        self.display.started(run, search, *rest)

    def opened(self, batch: Any) -> None:
        self.display.opened(batch)

    def observed(self, evaluation: Any, completed: bool) -> None:
        self.display.observed(evaluation, completed)
        self.count += 1
        if self.count == 50 or self.count % 1000 == 0:
            assert self.pool is not None
            self.rows.append((self.count, time.process_time() - self.pool.spent, resident()))


def cost(evaluations: int, population: int, optimizer: str, shown: bool) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = run_folder(
            Path(parent),
            {
                "optimizer": {"name": optimizer, "population": population},
                "budget": {"evaluations": evaluations},
                "lag": 2,
            },
        )
        clock = Clock(_display() if shown else None)
        with clock.display if shown else tempfile.TemporaryFile():  # type: ignore[attr-defined]
            loop.search(folder, clock.make, listener=clock)
        print(
            f"\n{evaluations:,} evaluations, population {population}, {optimizer}, display {'on' if shown else 'off'}\n"
        )
        print("| evaluations | ms an evaluation | resident MB |")
        print("| ---: | ---: | ---: |")
        step = max(1, len(clock.rows) // 12)
        rows = [*clock.rows[:-1:step], clock.rows[-1]]
        for (before, start, _), (after, end, memory) in itertools.pairwise(rows):
            each = 1000 * (end - start) / (after - before)
            print(f"| {after:,} | {each:.2f} | {memory / MEGABYTE:.0f} |")
        sizes = {name: (folder / name).stat().st_size / MEGABYTE for name in (JOURNAL, RESPONSES)}
        grown = (clock.rows[-1][2] - clock.rows[0][2]) / MEGABYTE
        print(
            f"\nmemory grew by {grown:.0f} MB; on the disk: journal {sizes[JOURNAL]:.0f} MB, answers {sizes[RESPONSES]:.0f} MB"
        )
        lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
        (folder / JOURNAL).write_bytes(b"".join(lines[:-1]))  # the end, that is worked out again
        began = time.perf_counter()
        loop.search(folder, clock.make)
        print(f"resumed at its end in {time.perf_counter() - began:.1f} s", flush=True)


def _display() -> Listener:
    from evomerge.report.progress import Display

    os.environ["FORCE_COLOR"] = "1"
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    return Display()


def resident() -> int:
    """Bytes of this process that are in memory and no mapped file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


# -- busy -------------------------------------------------------------------------------------------


def busy(slots: int, sigma: float) -> None:
    print(f"{slots} simulated workers, log-normal times (sigma {sigma:g})\n")
    print("| population | lag | under way, in slots | busy |")
    print("| ---: | ---: | ---: | ---: |")
    for population in (24, 64):
        for lag in (1, 2, 3, 4, 6, 8, 12, 16, 24):
            if population * lag > 12 * slots:
                continue
            share = part_worked(slots, sigma, population, lag)
            print(
                f"| {population} | {lag} | {population * lag / slots:.2f} | {share:.1%} |",
                flush=True,
            )


def part_worked(slots: int, sigma: float, population: int, lag: int) -> float:
    """The part of the slots' time that is worked while optimizers' batches are under way."""
    marks: dict[str, tuple[float, float]] = {}
    pools: list[MadeUp] = []

    def make(spec: WorkerSpec) -> MadeUp:
        count = iter(range(1_000_000))
        pools.append(
            MadeUp(
                spec,
                slots,
                lambda job: math.exp(
                    sigma * float(seeds.generator("latency", next(count)).standard_normal())
                ),
            )
        )
        return pools[-1]

    class Phases(Listener):
        def opened(self, batch: Any) -> None:
            marks.setdefault(str(batch.phase), (pools[-1].now, pools[-1].worked))

        def observed(self, evaluation: Any, completed: bool) -> None:
            # the last batches, when nothing can follow, are not what is asked about
            if self.search.history.searched < self.search.plan.evaluations:
                marks["end"] = (pools[-1].now, pools[-1].worked)

        def started(self, run: Any, search: Any, *rest: Any) -> None:
            self.search = search

    with tempfile.TemporaryDirectory() as parent:
        folder = run_folder(
            Path(parent),
            {
                "optimizer": {"name": "random", "population": population},
                "budget": {"evaluations": 20 * max(slots, population)},
                "lag": lag,
            },
        )
        loop.search(folder, make, listener=Phases())
    (began, before), (ended, after) = marks["search"], marks["end"]
    return (after - before) / slots / (ended - began)


if __name__ == "__main__":
    main()
