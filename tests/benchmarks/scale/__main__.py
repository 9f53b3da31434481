"""How a driver bears 100,000 evaluations and 512 workers; ``make bench-scale``.

    python -m tests.benchmarks.scale [--evaluations N] [--optimizers cma random ...] [--save]

Searches run one after the other, each in a process of its own; what is in the folder already is not measured again.
With ``--save`` the frozen rows are written, which ``docs/generate.py`` makes the tables of docs/scale.md from.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evomerge import durable
from tests.benchmarks.scale import long, results, slots

EVALUATIONS = {"cma": 100_000, "random": 10_000, "nsga2": 10_000, "map_elites": 10_000}
POPULATION, LAG = 16, 2
RATIOS = (1, 2, 4, 8, 16, 32)  # candidates that may be under way, in slots
SHAPES = ((64, 16), (64, 64), (512, 64), (512, 256))  # slots, population
JOB = 60.0  # seconds that a job takes, in the median
JOBS = (1.0, 10.0, 60.0)
WRITES = 300  # to see what a disk takes
MACHINE = "a machine of 2 cores that others used, too"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--evaluations", type=int, help="of each search, instead of the usual")
    parser.add_argument("--optimizers", nargs="+", default=list(EVALUATIONS))
    parser.add_argument("--folder", help="where searches are kept; default: a temporary one")
    parser.add_argument("--save", action="store_true", help="write the frozen rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        parent = Path(options.folder or temporary)
        rows = []
        for name in options.optimizers:
            count = options.evaluations or EVALUATIONS[name]
            rows.append(_row(parent, name, count, reads=not rows))
            print(json.dumps(rows[-1]), flush=True)
    waits = disk()
    cost = sum(rows[0]["cpu_ms"]) / len(rows[0]["cpu_ms"]) + waits
    found = {"machine": MACHINE, "long": rows, "disk_ms": waits, "slots": simulated(cost)}
    print(results.tables(found))
    if options.save:
        results.FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _row(parent: Path, optimizer: str, evaluations: int, reads: bool) -> dict[str, Any]:
    """What a search takes, and, where ``reads``, how long it takes to read what it left."""
    kept = parent / f"{optimizer}-{evaluations}.json"
    row: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if not row:
        row = _apart("measure", parent, optimizer, evaluations, POPULATION, LAG)
        kept.write_text(json.dumps(row))
    if reads and "read" not in row:
        row["read"] = long.read(parent, optimizer, evaluations)
        row["read"] |= _apart("reopen", parent, optimizer, evaluations)
        kept.write_text(json.dumps(row))
    return row


def disk() -> float:
    """Milliseconds that an evaluation waits for the disk: its answers and its line of the journal are written there."""
    with tempfile.TemporaryDirectory() as folder:
        handles = [os.open(f"{folder}/{n}", os.O_RDWR | os.O_CREAT) for n in range(2)]
        began = time.perf_counter()
        for _ in range(WRITES):
            for handle, size in zip(handles, (5600, 700), strict=True):
                durable.append(handle, bytes(size))
        seconds = time.perf_counter() - began
        for handle in handles:
            os.close(handle)
    return round(1000 * seconds / WRITES, 2)


def _apart(what: str, parent: Path, optimizer: str, *numbers: int) -> dict[str, Any]:
    """In a process of its own, whose memory is nobody else's."""
    words = [what, str(parent), optimizer, *map(str, numbers)]
    command = [sys.executable, "-m", "tests.benchmarks.scale.long", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def simulated(cost_ms: float) -> dict[str, Any]:
    """Slots in simulated time, where an evaluation takes the driver so many milliseconds."""
    busy, saturated = [], []
    for count, population in SHAPES:
        for ratio in RATIOS:
            lag = -(-ratio * count // population)
            share = slots.busy(count, population, lag, cost_ms / 1000 / JOB)
            row = {"slots": count, "population": population, "lag": lag, "ratio": ratio}
            busy.append({**row, "busy": round(share, 3)})
    for seconds in JOBS:
        share = slots.busy(512, 256, 64, cost_ms / 1000 / seconds)
        saturated.append({"seconds": seconds, "busy": round(share, 3)})
    return {"cost_ms": round(cost_ms, 2), "busy": busy, "saturated": saturated}


if __name__ == "__main__":
    main()
