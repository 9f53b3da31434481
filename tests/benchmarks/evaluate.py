"""Speed of evaluation, as ratios in one run: evomerge against lm-eval on the live model, and mergekit-evolve.

    python tests/benchmarks/evaluate.py [--rows choose,write_mixed] [--dtype bfloat16] [--mergekit PYTHON]

Makes synthetic models of a real one's shape and synthetic tasks, lets both tools score the same
weights in the same dtype in turns, and prints a table in Markdown: best and median of CPU seconds of
one thread, since a machine is seldom idle. lm-eval runs at the best of several batch sizes, through
``simple_evaluate`` on a resident model, so that it pays neither for start-up nor for loading.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import families
import tasks
from merge import HERE, folder, output, row, table, verdict

from evomerge.run.precision import scoring_dtype

SHAPE, TINY = "135M", "toy"
PEER_BATCH_SIZE = 8  # of mergekit-evolve, with merges on disk: its fastest here
GOALS = {"choose": 4.0, "write_equal": 1.0, "write_mixed": 1.5, "candidate": 5.0}  # times less
OVERHEAD = 30  # ms
TO_MEMORY = 2.0  # times the reading of all weights that a decoding step of ten rows may take
WHAT = {
    "choose": f"{tasks.CHOOSE['choose']} four-choice items, contexts of about 130 tokens: s/item",
    "write_equal": f"{tasks.WRITE} answers of {tasks.EQUAL} tokens, all cut at the cap: s",
    "write_mixed": f"{tasks.WRITE} answers of {tasks.MIXED[0]} to {tasks.MIXED[1]} tokens, then a stop: s",
    "step": "one decoding step of ten rows, beside reading the weights once: ms",
    "prepared": f"{4 * tasks.CHOOSE['prepared']} prepared requests, tiny model, all but the forward passes: ms",
    "candidate": f"a whole candidate: merge, {tasks.CHOOSE['few']} four-choice items, {tasks.WRITE} answers: s",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(WHAT), help="comma-separated; default: all")
    parser.add_argument(
        "--dtype",
        default=scoring_dtype("auto", "bfloat16", "cpu"),
        help="of both sides; whole candidates come in bfloat16, too, as mergekit-evolve scores\n"
        "(default: what evomerge takes for bfloat16 models on this machine: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of both sides a row")
    parser.add_argument("--mergekit", metavar="PYTHON", help="interpreter that has mergekit 0.1.5")
    parser.add_argument("--dir", type=Path, help="where checkpoints are made and kept")
    options = parser.parse_args()
    names = options.rows.split(",")
    if unknown := set(names) - set(WHAT):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    with folder(options.dir) as place, tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{scratch}/cache"}
        asked = tasks.write(Path(scratch) / "tasks")
        table(
            f"Evaluation, {SHAPE} shape, {options.dtype}, CPU seconds of one thread: best, median",
            "what | the peer | evomerge | times less | goal | answers that differ",
        )
        for name in names:
            family = families.make(place, TINY if name == "prepared" else SHAPE)
            if name == "step":
                step(family, asked, options)
            elif name == "candidate":
                whole(family, asked, Path(scratch), options)
            else:
                live(name, family, asked, options.dtype, options.rounds)


def live(name: str, family: Path, asked: Path, dtype: str, rounds: int) -> None:
    """The row of a task that lm-eval and evomerge score on the same live model."""
    found = score(name, family, asked, dtype, rounds)
    unit = {"choose": found["items"], "prepared": 1e-3}.get(name, 1)
    part = "outside" if name == "prepared" else "all"
    theirs, ours = ([each[part] / unit for each in found[side]] for side in ("peer", "ours"))
    differs = found["differs"]
    row(
        WHAT[name],
        f"lm-eval, batch size {found['batch_size']}: {both(theirs)}",
        both(ours),
        *ratio(name, theirs, ours),
        f"{differs['answers']} of {differs['of']}, {differs['nats']:.1g} nats",
    )


def step(family: Path, asked: Path, options: argparse.Namespace) -> None:
    """The rows of a decoding step in either dtype: how near it is to the memory, no tool beside it."""
    for dtype in ("float32", "bfloat16"):
        found = score("step", family, asked, dtype, max(5, options.rounds))
        memory, steps = found["memory"], found["step"]
        times = max(middle(steps) / middle(memory) for middle in (min, statistics.median))
        row(
            f"{WHAT['step']} ({dtype})",
            f"the memory: {both(memory)}",
            both(steps),
            f"{times:.1f} times more",
            f"at most {TO_MEMORY:g}{verdict(times <= TO_MEMORY)}",
            "-",
        )


def whole(family: Path, asked: Path, scratch: Path, options: argparse.Namespace) -> None:
    """The rows of whole candidates: mergekit-evolve, which scores in bfloat16, between runs of ours."""
    rounds, peer = options.rounds, options.mergekit
    ours = {
        dtype: score("candidate", family, asked, dtype, rounds)["ours"]
        for dtype in dict.fromkeys((options.dtype, "bfloat16"))
    }
    theirs = []
    if peer:
        genome = scratch / "genome.yaml"
        genome.write_text(json.dumps(evolution(family)))
        (scratch / "storage").mkdir()
        command = (peer, HERE / "evolve.py", genome, asked, scratch / "storage", 1 + rounds)
        candidates = json.loads(output(*command, PEER_BATCH_SIZE))[1:]
        theirs = [each["merge"]["cpu"] + each["score"]["cpu"] for each in candidates]
    for dtype, first in ours.items():
        again = score("candidate", family, asked, dtype, rounds)["ours"]
        seconds = [each["all"] for each in (*first, *again)]
        row(
            f"{WHAT['candidate']} (evomerge in {dtype})",
            f"mergekit-evolve: {both(theirs)}",
            both(seconds),
            *ratio("candidate", theirs, seconds),
            "-",
        )


def score(name: str, family: Path, asked: Path, dtype: str, rounds: int) -> Any:
    """What ``scoring.py`` finds."""
    return json.loads(
        output(sys.executable, HERE / "scoring.py", name, family, asked, dtype, rounds)
    )


def evolution(family: Path) -> dict[str, Any]:
    """The configuration of mergekit-evolve for the candidates that ``scoring.py`` makes."""
    return {
        "genome": {
            "models": [str(family / model) for model in families.MODELS[1:]],
            "base_model": str(family / families.MODELS[0]),
            "merge_method": "task_arithmetic",
        },
        "tasks": [{"name": "few"}, {"name": "write_equal", "metric": "exact_match,none"}],
        "apply_chat_template": False,
        "fewshot_as_multiturn": False,
    }


def both(values: Sequence[float]) -> str:
    """The best and the median."""
    if not values:
        return "-"
    return f"{min(values):.3g}, {statistics.median(values):.3g}"


def ratio(name: str, theirs: Sequence[float], ours: Sequence[float]) -> tuple[str, str]:
    """How many times less ours take, by best and by median, and whether the goal is met by the smaller."""
    times = [measure(theirs) / measure(ours) for measure in (min, statistics.median) if theirs]
    shown = ", ".join(f"{each:.3g}" for each in times) or "-"
    if name == "prepared":
        return shown, f"under {OVERHEAD} ms{verdict(statistics.median(ours) < OVERHEAD)}"
    goal = GOALS[name]
    return shown, f"{goal:g}{verdict(min(times) >= goal)}" if times else "-"


if __name__ == "__main__":
    main()
