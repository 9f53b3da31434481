"""One long search with made-up workers: what its driver takes, what it leaves, and how long that takes to read.

Real: the loop, the journal, the store of answers, the history, the optimizer, the estimators. Made up: the workers.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evomerge import config
from evomerge.commands.search import search
from evomerge.pool import WorkerSpec
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.record.index import NAME as INDEX
from evomerge.record.index import Brief
from evomerge.run import loop
from evomerge.run.loop import Listener
from tests.benchmarks.scale.made_up import MadeUp

DEMO = Path(__file__).parents[3] / "runs" / "demo" / "run.yaml"
PARTS = 10  # of a run, whose costs are told apart
WARM = 200  # evaluations before which nothing is counted: base, parents, known recipes, imports
ITEMS = (
    20  # that a candidate is asked of each of four tasks: as many at the end as at the beginning
)
SPACE = {
    "methods": ["task_arithmetic"],
    "groups": {"layers": 2, "roles": ["attn", "mlp", "norm"]},
    "parameters": {"weight": {"range": [0, 1.5]}},
    "start": ["parents", "uniform", "task_arithmetic", "ties", "widen"],
}


def run_folder(parent: Path, name: str, changes: Mapping[str, Any]) -> Path:
    """A folder with the demo's job, changed."""
    plain = config.read(DEMO).plain
    fitness = (DEMO.parent / plain["fitness"]).resolve()
    suite = config.read(fitness).plain
    suite["include"] = [str((fitness.parent / each).resolve()) for each in suite["include"]]
    suite["items"]["candidate"] = ITEMS
    folder = parent / name
    folder.mkdir(parents=True)
    whole = {**plain, "fitness": suite, "space": SPACE, **changes}
    config.write_text(folder / "run.yaml", config.dump(whole))
    return folder


class Clock(Listener):
    """Notes what the driver took by each part of a run.

    Attributes:
        marks: evaluations, seconds of CPU without the workers', bytes in memory.
    """

    def __init__(self, evaluations: int, answers: Path) -> None:
        self._answers = answers
        self._wanted = {WARM + (evaluations - WARM) * part // PARTS for part in range(PARTS + 1)}
        self._count = 0
        self.pool: MadeUp | None = None
        self.marks: list[tuple[int, float, int]] = []

    def make(self, spec: WorkerSpec) -> MadeUp:
        self.pool = MadeUp(spec, self._answers)
        return self.pool

    def observed(self, line: Any, completed: bool) -> None:
        self._count += 1
        if self._count in self._wanted:
            assert self.pool is not None
            self.marks.append((self._count, time.process_time() - self.pool.spent, resident()))


def resident() -> int:
    """Bytes of this process that are in memory and no mapped file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def measure(
    parent: Path, optimizer: str, evaluations: int, population: int, lag: int
) -> dict[str, Any]:
    """One row of ``results.json``: the driver's part of a search."""
    logging.disable(logging.WARNING)
    folder = run_folder(
        parent,
        f"{optimizer}-{evaluations}",
        {
            "optimizer": {"name": optimizer, "population": population},
            "budget": {"evaluations": evaluations},
            "lag": lag,
        },
    )
    clock = Clock(evaluations, parent / "answers.json")
    search(folder, clock.make, listener=clock)
    cpu = []
    for (before, c0, _), (after, c1, _) in itertools.pairwise(clock.marks):
        cpu.append(round(1000 * (c1 - c0) / (after - before), 2))
    (first, _, m0), *_, (last, _, m1) = clock.marks
    sizes = {name: (folder / name).stat().st_size for name in (JOURNAL, RESPONSES)}
    return {
        "optimizer": optimizer,
        "evaluations": evaluations,
        "population": population,
        "lag": lag,
        "cpu_ms": cpu,
        "memory_bytes": round((m1 - m0) / (last - first)),
        "journal_bytes": round(sizes[JOURNAL] / evaluations),
        "store_bytes": round(sizes[RESPONSES] / evaluations),
    }


def read(parent: Path, optimizer: str, evaluations: int) -> dict[str, float]:
    """Seconds of CPU that it takes to read what the search left, each in a process of its own."""
    folder = parent / f"{optimizer}-{evaluations}"
    found: dict[str, float] = {}

    def command(name: str, *words: str) -> None:
        began = _children()
        subprocess.run([sys.executable, "-m", "evomerge", *words], check=True, capture_output=True)
        found[name] = round(_children() - began, 2)

    command("status", "status", str(folder))
    command("report", "report", str(folder), "-o", str(parent / "page.html"), "--force")
    command("export", "export", str(folder), "-o", str(parent / "best.yaml"), "--force")
    command("search", "search", str(folder), "--quiet")
    index = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    command("status_without_index", "status", str(folder))
    (folder / INDEX).write_bytes(index)
    found["page_megabytes"] = round((parent / "page.html").stat().st_size / 1e6, 2)
    return found


def _children() -> float:
    """Seconds of CPU of processes that were waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def reopen(parent: Path, optimizer: str, evaluations: int) -> dict[str, float]:
    """Seconds of CPU to where a search goes on that was killed before its end, and of a status in this process."""
    logging.disable(logging.WARNING)
    folder = parent / f"{optimizer}-{evaluations}"
    killed = parent / "killed"
    shutil.rmtree(killed, ignore_errors=True)
    killed.mkdir()
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(lines) if b'"phase":"select"' in line[:80])
    (killed / JOURNAL).write_bytes(b"".join(lines[: cut - 1]))
    shutil.copy(folder / RESPONSES, killed)  # a hard link is refused
    shutil.copy(folder / "run.yaml", killed)
    Brief(killed).write()  # as the search had it

    class Stop(Listener):
        def working(self, slots: int, look: Any) -> None:
            raise KeyboardInterrupt

    def seconds(work: Callable[[], Any]) -> float:
        began = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(KeyboardInterrupt):
            work()
        return round(time.process_time() - began, 2)

    clock = Clock(evaluations, parent / "answers.json")
    found = {
        "status_in_process": seconds(lambda: Brief(folder)),
        "resume": seconds(lambda: loop.search(killed, clock.make, listener=Stop())),
    }
    shutil.rmtree(killed)
    return found


def main(arguments: list[str]) -> None:
    """``measure`` or ``reopen`` in a process of its own; prints the row."""
    what, parent, optimizer, *numbers = arguments
    if what == "measure":
        evaluations, population, lag = map(int, numbers)
        row = measure(Path(parent), optimizer, evaluations, population, lag)
    else:
        row = reopen(Path(parent), optimizer, int(numbers[0]))
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])
