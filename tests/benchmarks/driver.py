"""What the driver itself takes: milliseconds an evaluation, memory, and how busy it keeps its workers.

    python tests/benchmarks/driver.py cost [--evaluations 2000 10000 100000] [--display]
    python tests/benchmarks/driver.py busy [--slots 64] [--sigma 1.0]

* ``cost`` runs real searches on the demo's models and tasks (14 genes, four objectives that are estimated,
  journal and store on the disk) whose workers are made up and answer at once: base and parents are really
  scored, once; whatever else is asked answers each item as one of them did, drawn anew for each model.
  Prints, by thousands of evaluations, milliseconds of CPU of the driver for each (the pool's own are taken
  off; waiting for the disk is not counted) and the memory it holds by then; then what lies on the disk, and
  how long it takes to fold the journal again.
* ``busy`` runs the search core in simulated time: workers take log-normal times (``sigma`` of the logarithm,
  median 1), the driver none. Prints the part of the slots' time that is worked while the search goes on, by
  population and lag.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import itertools
import os
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from evomerge import config, optimizers, seeds  # noqa: E402
from evomerge.checkpoint import ModelRef  # noqa: E402
from evomerge.evolution.core import Plan, Search  # noqa: E402
from evomerge.evolution.history import Evaluation, History, Phase  # noqa: E402
from evomerge.optimizers import Problem  # noqa: E402
from evomerge.pool import PlainJob, PlainOutcome, PlainWorker, Pool, WorkerSpec  # noqa: E402
from evomerge.recipe import Body, Recipe  # noqa: E402
from evomerge.record.events import JOURNAL, RESPONSES  # noqa: E402
from evomerge.run import loop  # noqa: E402
from evomerge.run.loop import Listener  # noqa: E402
from evomerge.space import SearchSpace, SpaceSpec  # noqa: E402
from evomerge.suite.objectives import Objective, combine, yardsticks  # noqa: E402

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
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.3, 0.5, 1.0])
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
    """Answers at once, as one of the real models did, item by item.

    Args:
        spec: of the real worker, which base and parents are asked of.
    """

    _kept: ClassVar[dict[str, dict[str, Any]]] = {}  # answers of a real model to an item

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: PlainWorker | None = None
        self._queue: deque[PlainJob] = deque()
        self.spent = 0.0  # seconds of CPU

    @property
    def slots(self) -> int:
        return 1

    @property
    def pending(self) -> int:
        return len(self._queue)

    def submit(self, job: PlainJob) -> None:
        self._queue.append(job)

    def next(self, timeout: float | None = None) -> tuple[PlainJob, PlainOutcome] | None:
        began = time.process_time()
        if not self._queue:
            return None
        job = self._queue.popleft()
        outcome = self._outcome(job)
        self.spent += time.process_time() - began
        return job, outcome

    def close(self) -> None:
        self._queue.clear()

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
        outcome = self._worker(job)
        gc.freeze()  # elsewhere a driver has no worker in its process
        return outcome

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


def busy(slots: int, sigmas: Sequence[float]) -> None:
    print(f"{slots} simulated workers, log-normal times, busy by their sigma\n")
    print(
        f"| population | lag | asked at once, in slots | {' | '.join(f'{s:g}' for s in sigmas)} |"
    )
    print(f"| ---: | ---: | ---: |{' ---: |' * len(sigmas)}")
    for population in (24, 64):
        for ratio in (1, 2, 3, 4, 8, 16, 24, 32):
            lag = -(-ratio * slots // population)
            shares = [f"{part_worked(slots, sigma, population, lag):.1%}" for sigma in sigmas]
            asked = population * lag / slots
            print(f"| {population} | {lag} | {asked:.1f} | {' | '.join(shares)} |", flush=True)


def part_worked(slots: int, sigma: float, population: int, lag: int) -> float:
    """The part of the slots' time that is worked from the first batch of the search to its last."""
    wanted = (Objective("skill", "sums", "acc"),)
    template = Recipe(
        ModelRef("b"), {"chat": ModelRef("c"), "sea": ModelRef("s")}, Body(), "float32"
    )
    space = SearchSpace(SpaceSpec(("task_arithmetic",), start=("uniform",)), template, 4)
    count = 300 * slots + lag * population
    search = Search(
        space,
        optimizers.make("random", Problem(space.dims, ("skill",)), seed=0, population=population),
        Plan(count, population, lag),
        History(
            lambda values, references, gains: combine(wanted, "mean", values, references, gains),
            lambda references: yardsticks(wanted, references),
        ),
        objectives=wanted,
    )
    history, queue = search.history, deque[tuple[int, int]]()
    running: list[tuple[float, int, int]] = []
    now = worked = 0.0
    marks: list[tuple[float, float]] = []
    times = seeds.generator("latency", population, lag).lognormal(0.0, sigma, count + 10).tolist()
    while history.phase != Phase.SELECT:
        while (batch := search.propose()) is not None and batch.phase.searched:
            history.open(batch)
            queue.extend((batch.number, candidate.id) for candidate in batch.candidates)
            if batch.phase == Phase.SEARCH:
                marks = [*marks[:1], (now, worked)]
        if batch is not None:
            break
        while queue and len(running) < slots:
            heapq.heappush(running, (now + times.pop(), *queue.popleft()))
        worked += len(running) * (running[0][0] - now)
        now, number, candidate = heapq.heappop(running)
        history.observe(Evaluation(number, candidate, {"skill": 0.01 * (candidate % 7)}))
    (began, before), (ended, after) = marks
    return (after - before) / slots / (ended - began)


if __name__ == "__main__":
    main()
