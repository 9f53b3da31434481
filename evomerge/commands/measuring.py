"""What a search takes on this machine, measured: a worker in a process of its own merges and scores a little.

This executes what a search would: functions of tasks, Python objectives, remote code that run.yaml allows.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

from evomerge.errors import RunError
from evomerge.evolution.outlook import Course
from evomerge.pool import WorkerSpec
from evomerge.run.preflight import Run
from evomerge.suite.scorer import Items
from evomerge.suite.splits import Split
from evomerge.worker import Job, Outcome

ITEMS = 8  # of each scorer that are timed, after as many that warm up


@dataclass(frozen=True)
class Measured:
    """What one worker took.

    Attributes:
        opening: seconds until it could be asked.
        merge: seconds of a merge, once those before it left their traces in memory.
        item: seconds of one item.
        slope: seconds of one item of a slope; None where there are none.
        tokens: of one item.
        memory: the most that its process held, in bytes, mapped files of the parents among it.
    """

    opening: float
    merge: float
    item: float
    slope: float | None
    tokens: float
    memory: int

    def seconds(self, course: Course, price: int) -> float | None:
        """Of one worker, from the start to the final table; None where nothing but hours limits a search.

        Evaluations count as what the plan says of half of the search, items as if all that is left of them
        went the dearer way.

        Args:
            course: of the run.
            price: items that the budget counts for an item of a slope.
        """
        known, asked = course.start
        first = course.whole + known * asked
        counts = []
        if (limit := course.limits.get("items")) is not None:
            counts.append(limit)
        if (limit := course.limits.get("evaluations")) is not None:
            counts.append(first + max(0.0, limit - known) * course.cost(0.5))
        if not counts:
            return None
        searched = max(0.0, min(counts) - first)
        dear = max(self.item, (self.slope or 0.0) / price)
        last = course.shortlist * course.select * self.item
        last += course.reported * course.report * (self.item + course.report_token * self.tokens)
        return self.opening + first * self.item + searched * dear + last


def measure(run: Run, *, device: str | None = None, gpus: int = 1) -> Measured:
    """Let a worker merge a known recipe of ``run`` twice, and score it on other items each time.

    Raises:
        RunError: the worker died, of too little memory for instance, or the recipe cannot be scored.
    """
    recipe = next(reversed(run.space.starts().values()), run.space.uniform())
    taught = set(run.teaching.values())
    jobs = [
        Job(
            str(number),
            recipe.portable().plain,
            items,
            slope={name: ids for name, ids in items.items() if name in taught},
            **asdict(run.suite.spec.slopes),
        ).plain
        for number, items in enumerate(_portions(run.suite.splits[Split.SEARCH]))
    ]
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            work = process.submit(_work, run.worker(device, gpus), jobs)
            opening, outcomes, memory = work.result()
    except BrokenProcessPool:
        raise RunError(
            "the worker that was to be measured died; where memory is short, the kernel ends it. Give it more, or say "
            "fewer `batch_tokens` in the fitness file"
        ) from None
    last = Outcome.from_plain(outcomes[-1])
    if last.error is not None:
        raise RunError(f"a known recipe cannot be scored: {last.error}")
    asked, sloped = (_count(jobs[-1][key]) for key in ("items", "slope"))
    seconds = last.seconds
    slope = seconds["slope"] / sloped if sloped else None
    tokens = sum(each["tokens"] for each in (last.results or {}).values()) / asked
    return Measured(opening, seconds["merge"], seconds["score"] / asked, slope, tokens, memory)


def _portions(split: Items) -> list[Items]:
    """Two times a few items of each scorer, others where there are enough."""
    first = {name: ids[:ITEMS] for name, ids in split.items()}
    return [first, {name: ids[ITEMS : 2 * ITEMS] or ids[:ITEMS] for name, ids in split.items()}]


def _count(items: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, items.values()))


def _work(
    spec: WorkerSpec, jobs: Sequence[Mapping[str, Any]]
) -> tuple[float, list[dict[str, Any]], int]:
    """In the process of the worker: seconds of opening, an outcome a job, peak memory in bytes."""
    began = time.perf_counter()
    worker = spec.build()
    opening = time.perf_counter() - began
    outcomes = [worker(job) for job in jobs]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return opening, outcomes, peak * (1 if sys.platform == "darwin" else 1024)
