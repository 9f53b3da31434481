"""Speed of merging, as ratios in one run: evomerge against mergekit 0.1.5 and against the memory.

    python tests/benchmarks/merge.py [--size 135M|500M|both] [--methods ties,della] [--mergekit PYTHON] [--disk]

Makes synthetic Llama-shaped bfloat16 checkpoints (a base and three sources), merges them with both tools,
each in processes of its own, one at a time, and prints tables in Markdown. CPU seconds of one thread,
since a machine is seldom idle; where neighbours share its cores and caches even those vary by tens of
percent, so the bandwidth that they are compared with is measured in the same processes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import families  # noqa: E402
from candidates import recipe, sources_of, values  # noqa: E402
from processes import Cost, run  # noqa: E402

from evomerge import methods as registry  # noqa: E402

TRIMMING = ("ties", "breadcrumbs", "sce", "dare_ties", "della")
SHARED = ("linear", "task_arithmetic", "model_stock", *TRIMMING)  # with mergekit
METHODS = (
    *("linear", "task_arithmetic", "magmax", *TRIMMING),
    *("widen", "model_stock", "pcb", "consensus_ta", "iso_c", "tsvm"),
)
DISK = ("linear", "task_arithmetic", "model_stock", *TRIMMING)

WARM = {  # how many times less than mergekit a warm candidate takes
    "linear": 5,
    "task_arithmetic": 5,
    "ties": 40,
    "breadcrumbs": 40,
    "sce": 40,
    "dare_ties": 20,
    "della": 40,
}
LIKE_OURS = {"widen", "model_stock", "magmax", "pcb", "consensus_ta"}  # times task_arithmetic
TIMES = 4
TO_LIMIT, AT_THE_LIMIT = 3, ("linear", "task_arithmetic", "magmax")
DISK_WALL, START_UP = 3, 2.5  # times; seconds
HEADROOM = 600e6  # bytes beside one output shard
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=["135M", "500M", "both"], default="135M")
    parser.add_argument("--methods", default="", help="comma-separated; default: all of the table")
    parser.add_argument("--mergekit", metavar="PYTHON", help="interpreter that has mergekit 0.1.5")
    parser.add_argument("--disk", action="store_true", help="whole processes that write a model")
    parser.add_argument("--no-memory", action="store_true", help="no candidates in process")
    parser.add_argument("--dir", type=Path, help="where checkpoints are made and kept")
    parser.add_argument("--warm", type=int, default=3, help="warm candidates a method")
    options = parser.parse_args()
    chosen = [name for name in options.methods.split(",") if name]
    known = [name for name in chosen or METHODS if name in registry.names()]
    if unknown := set(chosen) - set(known):
        parser.error(f"no such method: {', '.join(sorted(unknown))}")
    with folder(options.dir) as place:
        toy = families.make(place, "toy")
        for size in ("135M", "500M") if options.size == "both" else (options.size,):
            family = families.make(place, size)
            if not options.no_memory:
                in_memory(size, toy, family, known, options.mergekit, options.warm)
            if options.disk:
                wanted = chosen or [name for name in DISK if name in known]
                on_disk(size, toy, family, wanted, options.mergekit)


@contextmanager
def folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="evomerge-benchmark-") as made:
        yield Path(made)


# -- candidates in process -----------------------------------------------------------------------


def in_memory(
    size: str, toy: Path, family: Path, names: Sequence[str], peer: str | None, warm: int
) -> None:
    """Print the table of candidates merged into a resident model."""
    table(
        f"Candidates into a resident model, {size} shape, CPU seconds of one thread",
        "method | mergekit | first | compiling | times less | goal | warm: best, median | times less | goal "
        "| times the limit | goal | two threads, wall",
    )
    ours_of_task_arithmetic = math.nan
    for name in names:
        found = json.loads(output(sys.executable, HERE / "candidates.py", toy, family, name, warm))
        theirs = mergekit_candidate(peer, family, name) if peer and name in SHARED else math.nan
        first = found["first"]["cpu"]
        seconds = [each["cpu"] for each in found["warm"]]
        best, middle = min(seconds), statistics.median(seconds)
        if name == "task_arithmetic":
            ours_of_task_arithmetic = best
        limit = found["bytes"] / found["bandwidth"]
        goal = "-"
        if name in WARM:
            goal = met(theirs / best, WARM[name])
        elif name in LIKE_OURS:
            ratio = best / ours_of_task_arithmetic
            goal = f"{ratio:.1f} of {TIMES} task_arithmetic{verdict(ratio <= TIMES)}"
        elif found["rebuilding"]:
            spent = found["rebuilding"]
            goal = f"{best / spent:.1f} of 1 products of {spent:.2f}{verdict(best <= spent)}"
        row(
            name,
            number(theirs),
            f"{first:.2f}",
            f"{found['compile']:.1f}",
            number(theirs / first),
            met(theirs / first, 5 if name in TRIMMING else 2),
            f"{best:.3f}, {middle:.3f}",
            number(theirs / best),
            goal,
            f"{best / limit:.1f} ({found['bandwidth'] / 1e9:.0f} GB/s)",
            f"{TO_LIMIT}{verdict(best / limit <= TO_LIMIT)}" if name in AT_THE_LIMIT else "-",
            number(min((each["wall"] for each in found["two"]), default=math.nan), 3),
        )


def mergekit_candidate(peer: str, family: Path, name: str) -> float:
    """CPU seconds of mergekit's best candidate; where it takes long, of its only one."""
    repeat = 1 if name in TRIMMING else 3
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(mergekit_config(family, name), file)
        file.flush()
        return float(min(json.loads(output(peer, HERE / "peer.py", file.name, repeat))))


def mergekit_config(family: Path, name: str) -> dict[str, Any]:
    """The first candidate of a method as mergekit writes it."""
    given = values(name, 0)
    each = {key: value for key, value in given.items() if isinstance(value, Mapping)}
    return {
        "merge_method": name,
        "dtype": "bfloat16",
        "models": [
            {
                "model": str(family / model),
                "parameters": {key: value[model] for key, value in each.items()},
            }
            for model in sources_of(name)
        ],
        "parameters": {key: value for key, value in given.items() if key not in each},
        **({"base_model": str(family / "base")} if registry.get(name).base != "none" else {}),
    }


# -- whole processes -----------------------------------------------------------------------------


def on_disk(size: str, toy: Path, family: Path, names: Sequence[str], peer: str | None) -> None:
    """Print the tables of start-up and of merges to disk."""
    table(f"Whole processes ({size} shape), seconds and MB", COLUMNS)
    script = Path(peer).parent / "mergekit-yaml" if peer else None
    python = [sys.executable, "-m", "evomerge"]
    started = run([sys.executable, "-c", "import evomerge.merging, torch"])
    process(
        "import evomerge.merging, torch",
        started,
        None,
        f"under {START_UP}{verdict(started.wall < START_UP)}",
    )
    process(
        "evomerge methods", run([*python, "methods"]), run([script, "--help"]) if script else None
    )
    shard = sum(file.stat().st_size for file in (family / "base").glob("*.safetensors"))
    for name in names:
        with tempfile.TemporaryDirectory(dir=family) as scratch:
            file, config = Path(scratch) / "recipe.yaml", Path(scratch) / "mergekit.yaml"
            out, theirs = Path(scratch) / "out", Path(scratch) / "theirs"
            recipe(family, name, 0).save(file)
            cost = run([*python, "merge", file, "-o", out])
            other = None
            if script and name in SHARED:
                config.write_text(json.dumps(mergekit_config(family, name)))
                other = run([script, config, theirs, "--quiet"])
        room = shard + HEADROOM
        memory = (
            f"{cost.anonymous / 1e6:.0f} of {room / 1e6:.0f} MB{verdict(cost.anonymous <= room)}"
        )
        process(f"merge: {name}", cost, other, memory)


COLUMNS = (
    "what | wall | CPU | peak anonymous | peak resident | mergekit: wall | CPU | peak anonymous "
    "| times less wall | goal | bound"
)


def process(what: str, ours: Cost, theirs: Cost | None, bound: str = "-") -> None:
    measured = [number(math.nan)] * 3
    times = math.nan
    if theirs:
        times = theirs.wall / ours.wall
        measured = [f"{theirs.wall:.1f}", f"{theirs.cpu:.1f}", f"{theirs.anonymous / 1e6:.0f}"]
    row(
        what,
        f"{ours.wall:.1f}",
        f"{ours.cpu:.1f}",
        f"{ours.anonymous / 1e6:.0f}",
        f"{ours.resident / 1e6:.0f}",
        *measured,
        number(times),
        met(times, DISK_WALL),
        bound,
    )


# -- printing ------------------------------------------------------------------------------------


def output(*command: object) -> str:
    """What a command, on one thread, prints in its last line; what it says besides is shown if it fails."""
    root = str(HERE.parents[1])
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": root}
    if command[1] == HERE / "peer.py":
        del environment["PYTHONPATH"]
    with tempfile.TemporaryDirectory() as cache:  # nothing is compiled yet
        environment["XDG_CACHE_HOME"] = cache
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def table(title: str, columns: str) -> None:
    print(f"\n{title}\n\n| {columns} |\n|{'---|' * (columns.count('|') + 1)}", flush=True)


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def number(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def met(ratio: float, goal: float) -> str:
    """The goal for a ratio, and whether it is met."""
    return "-" if math.isnan(ratio) else f"{goal:g}{verdict(ratio >= goal)}"


def verdict(good: bool) -> str:
    return " met" if good else " NOT met"


if __name__ == "__main__":
    main()
