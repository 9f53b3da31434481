"""Every tier, every contestant, every seed: resumable, a file a row."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from evomerge import config
from tests.benchmarks.search import analytic, replay
from tests.benchmarks.search.controls import ANYTIME, CONTROLS
from tests.benchmarks.search.driving import Entry, available, drive
from tests.benchmarks.search.families import noisy
from tests.benchmarks.search.ground import Ground, Trace, hypervolume
from tests.benchmarks.search.landscapes import Landscape
from tests.benchmarks.search.results import SHARES, Row

ROOT = Path(__file__).parents[3]
TIERS = ("t0", "t1", "t2", "t3")
ITEMS = 90  # of an evaluation on grounds without models: all tasks together
CURVE = 20
FAMILIES = ("embedded", "noisy")

# What searches as evomerge; those whose optimizer is not there are left out. A quarter was CMA-ES's first step once.
ENTRIES: Mapping[str, Entry] = {
    "auto": Entry("auto"),
    "auto, per place": Entry("auto", "places"),
    "slope": Entry("slope"),
    "slope, per place": Entry("slope", "places"),
    "cma, sigma0 .1": Entry("cma", options=(("sigma0", 0.1),)),
    "cma, sigma0 .25": Entry("cma", options=(("sigma0", 0.25),)),
    "optuna": Entry("optuna"),
}
# The same on real models, as changes of the job. ``tensors`` is a weight for each tensor and source.
TENSORS = {
    "methods": ["task_arithmetic"],
    "groups": "tensor",
    "parameters": {"weight": {"range": [0, 1.5]}},
    "start": ["parents", "uniform", "task_arithmetic"],
}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "auto": {"optimizer": {"name": "auto", "population": 12, "steps": 20, "rate": 0.12}},
    "auto, rows": {
        "optimizer": {"name": "auto", "population": 12, "steps": 20, "rate": 0.12},
        "space": {**TENSORS, "rows": {"steps": 32, "rate": 0.1}},
    },
    "slope": {"optimizer": {"name": "slope"}},
    "slope, per tensor": {"optimizer": {"name": "slope"}, "space": TENSORS},
    "cma, sigma0 .1": {"optimizer": {"name": "cma", "population": 14, "sigma0": 0.1}},
    "cma, sigma0 .25": {"optimizer": {"name": "cma", "population": 14, "sigma0": 0.25}},
}
PRICED = (
    "auto",
    "cma, sigma0 .1",
)  # the first that there is sets what others may spend on real models


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        out: folder of rows and runs.
        tiers: of ``TIERS``.
        seeds: numbers.
        evaluations: budgets.
        contestants: only these, if any are named.
        families: of tier T2.
        cache: of truths; None is the user's.
        items: of a candidate and task in the emulations on real models.
        kinds: of tier T0.
        source: the job of tier T2's first family.
    """

    out: Path
    tiers: tuple[str, ...] = TIERS
    seeds: tuple[int, ...] = tuple(range(20))
    evaluations: tuple[int, ...] = (100, 300, 1000)
    contestants: tuple[str, ...] = ()
    families: tuple[str, ...] = FAMILIES
    cache: Path | None = None
    items: int = 30
    kinds: tuple[str, ...] = analytic.KINDS
    source: Path = ROOT / "runs" / "demo" / "run.yaml"

    def wants(self, contestant: str) -> bool:
        return not self.contestants or contestant in self.contestants


def run(plan: Plan, jobs: int = 1) -> list[Row]:
    """All rows of a plan; those that are on disk are not made again."""
    units: list[tuple[str, str, int]] = []
    for tier in plan.tiers:
        grounds = {"t0": plan.kinds, "t1": ("landscapes",), "t2": plan.families, "t3": ("matrix",)}
        units += [(tier, ground, seed) for ground in grounds[tier] for seed in plan.seeds]
    if "t2" in plan.tiers and "noisy" in plan.families:
        noisy(plan.out / "t2" / "noisy-family")
    rows: list[Row] = []
    if jobs < 2:
        for unit in units:
            rows += unit_rows(plan, *unit)
        return rows
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for found in pool.map(partial(unit_rows, plan), *zip(*units, strict=True)):
            rows += found
    return rows


def unit_rows(plan: Plan, tier: str, ground: str, seed: int) -> list[Row]:
    """The rows of one seed on one ground."""
    import torch

    torch.set_num_threads(1)
    made = {"t0": _simulated, "t1": _simulated, "t2": _real, "t3": _replayed}[tier]
    rows = list(made(plan, tier, ground, seed))
    print(f"{tier} {ground} seed {seed}: {len(rows)} rows", file=sys.stderr, flush=True)
    return rows


def _kept(
    plan: Plan, tier: str, ground: str, seed: int, contestant: str, make: Callable[[], list[Row]]
) -> list[Row]:
    """The rows of a contestant from disk, made first unless they are there for these budgets."""
    path = plan.out / tier / ground / f"seed-{seed}" / f"{file_name(contestant)}.json"
    known: dict[int, Row] = {}
    if path.is_file():
        known = {row["evaluations"]: Row(**row) for row in json.loads(path.read_text())}
    if not set(plan.evaluations) <= known.keys():
        known |= {row.evaluations: row for row in make()}
        config.write_text(path, json.dumps([row.plain for _, row in sorted(known.items())]))
    return [known[evaluations] for evaluations in plan.evaluations if evaluations in known]


def file_name(contestant: str) -> str:
    return contestant.replace(",", "").replace(" ", "-")


# -- grounds without models -----------------------------------------------------------------------


def _simulated(plan: Plan, tier: str, name: str, seed: int) -> Iterator[Row]:
    ground: Ground = Landscape(seed) if tier == "t1" else analytic.Analytic(name, seed)
    wanted: dict[str, Callable[[int], Trace]] = {}
    entries = {n: e for n, e in ENTRIES.items() if e.form in ground.forms}
    there = available([entry.optimizer for entry in entries.values()])
    for contestant, entry in entries.items():
        if entry.optimizer in there:
            wanted[contestant] = partial(_driven, entry, ground, seed)
    for contestant, control in CONTROLS.items():
        if tier == "t1" or contestant in ("known recipes", "random"):
            wanted[contestant] = partial(_controlled, control, ground, seed)
    for contestant, search in wanted.items():
        if plan.wants(contestant):

            def make(contestant: str = contestant, search: Any = search) -> list[Row]:
                traces: dict[int, Trace] = {}
                if contestant in ANYTIME:
                    traces = dict.fromkeys(plan.evaluations, search(max(plan.evaluations) * ITEMS))
                else:
                    traces = {each: search(each * ITEMS) for each in plan.evaluations}
                return [
                    _row(ground, trace, (tier, name, contestant, seed), evaluations)
                    for evaluations, trace in traces.items()
                ]

            yield from _kept(plan, tier, name, seed, contestant, make)


def _driven(entry: Entry, ground: Ground, seed: int, budget: int) -> Trace:
    return drive(entry, ground, seed, budget, ITEMS)


def _controlled(control: Any, ground: Ground, seed: int, budget: int) -> Trace:
    trace: Trace = control(ground, seed, budget, ITEMS)
    return trace


def _row(
    ground: Ground, trace: Trace, who: tuple[str, str, str, int], evaluations: int, budget: int = 0
) -> Row:
    """The truth about a trace at a budget, by default of ``evaluations``."""
    budget = budget or evaluations * ITEMS
    known: dict[Any, float] = {}

    def true(share: float) -> float | None:
        moment = trace.answer(share * budget)
        if moment is None:
            return None
        if moment.point not in known:
            values = ground.true(moment.point)
            known[moment.point] = 0.0 if values is None else float(values.mean())
        return known[moment.point]

    end = trace.answer(budget)
    assert end is not None, f"{who} has no answer after {budget} items"
    volume, cheap = None, who[0] != "t2"
    if cheap and len(ground.names) > 1 and trace.spent <= budget:  # the front is of the trace's end
        base = ground.true(_base(ground))
        points = [values for point in trace.front if (values := ground.true(point)) is not None]
        assert base is not None
        volume = hypervolume([tuple(p) for p in points], tuple(base))
    return Row(
        *who,
        evaluations,
        min(trace.spent, budget),
        {share: true(float(share.rstrip("%")) / 100) for share in SHARES},
        float(true(1.0) or 0.0),
        end.claimed,
        hypervolume=volume,
        curve=[true((n + 1) / CURVE) for n in range(CURVE)] if cheap else (),
    )


def _base(ground: Ground) -> Any:
    from tests.benchmarks.search.ground import Point

    if "base" in ground.known():
        return ground.known()["base"]
    return Point("groups", (0.0,) * len(ground.dims("groups")))


# -- real models ----------------------------------------------------------------------------------


def _real(plan: Plan, tier: str, name: str, seed: int) -> Iterator[Row]:
    from evomerge.pool.serial import SerialPool
    from evomerge.run.loop import search
    from evomerge.run.preflight import prepare
    from evomerge.run.spec import load_run
    from tests.benchmarks.search.family import Family
    from tests.benchmarks.search.finetune import RATES, finetune
    from tests.benchmarks.search.truth import Truth, Truths, judge

    source = noisy(plan.out / "t2" / "noisy-family") if name == "noisy" else plan.source
    folder = plan.out / tier / name / f"seed-{seed}"
    truths = Truths(plan.cache)
    there = available([str(run["optimizer"]["name"]) for run in RUNS.values()])
    runs = {n: changes for n, changes in RUNS.items() if changes["optimizer"]["name"] in there}
    first = next(contestant for contestant in PRICED if contestant in runs)
    rows: dict[str, list[Row]] = {}
    for contestant, changes in runs.items():
        if contestant != first and not plan.wants(contestant):
            continue

        def make(contestant: str = contestant, changes: Any = changes) -> list[Row]:
            found = []
            for evaluations in plan.evaluations:
                place = folder / "runs" / f"{file_name(contestant)}-{evaluations}"
                write_job(source, place, seed, {**changes, "budget": {"evaluations": evaluations}})
                search(place, SerialPool)
                judged = judge(place, truths)
                found.append(
                    Row(
                        *(tier, name, contestant, seed, evaluations, judged.total),
                        dict(judged.shares),
                        judged.true,
                        judged.claimed,
                        judged.held_out,
                    )
                )
            return found

        rows[contestant] = _kept(plan, tier, name, seed, contestant, make)
        if plan.wants(contestant):
            yield from rows[contestant]
    prices = {row.evaluations: row.items for row in rows[first]}
    place = folder / "runs" / "control"
    write_job(source, place, seed, {})
    job = prepare(load_run(place))
    truth = Truth(job, cache=plan.cache)
    ground: Family | None = None
    for contestant, control in CONTROLS.items():
        if not plan.wants(contestant):
            continue

        def controlled(contestant: str = contestant, control: Any = control) -> list[Row]:
            nonlocal ground
            ground = ground or Family(job, seed, truth)
            items = plan.items * len(ground.names)
            if contestant in ANYTIME:
                traces = dict.fromkeys(prices, control(ground, seed, max(prices.values()), items))
            else:
                traces = {e: control(ground, seed, price, items) for e, price in prices.items()}
            return [
                _row(
                    ground, trace, (tier, name, contestant, seed), evaluations, prices[evaluations]
                )
                for evaluations, trace in traces.items()
            ]

        yield from _kept(plan, tier, name, seed, contestant, controlled)
    for rate in RATES:
        contestant = f"fine-tuning, {rate:g}"
        if not plan.wants(contestant):
            continue

        def trained(contestant: str = contestant, rate: float = rate) -> list[Row]:
            nonlocal ground
            ground = ground or Family(job, seed, truth)
            found = []
            for evaluations, price in prices.items():
                end = finetune(ground, truth, seed, price, rate)
                shares: dict[str, float | None] = dict.fromkeys(SHARES[:-1])
                shares["100%"] = end.true
                found.append(
                    Row(
                        *(tier, name, contestant, seed, evaluations, end.spent),
                        shares,
                        end.true,
                        held_out=end.held_out,
                    )
                )
            return found

        yield from _kept(plan, tier, name, seed, contestant, trained)


def write_job(source: Path, folder: Path, seed: int, changes: Mapping[str, Any]) -> None:
    """The job of ``source`` as ``folder/run.yaml``: of a seed, which also cuts the items, with ``changes``."""
    content, parts = config.read(source).plain, {}
    for part in ("space", "fitness"):
        parts[part], at = changes.get(part, content[part]), source.parent
        if isinstance(parts[part], str):
            at = (at / parts[part]).resolve()
            parts[part], at = config.read(at).plain, at.parent
        parts[part] = dict(parts[part])
        if "include" in parts[part]:
            parts[part]["include"] = [str((at / each).resolve()) for each in parts[part]["include"]]
    parts["fitness"]["items"] = {**parts["fitness"].get("items", {}), "partition": seed}
    config.write_text(
        folder / "run.yaml", config.dump({**content, **changes, **parts, "seed": seed})
    )


# -- the frozen matrix ----------------------------------------------------------------------------


def _replayed(plan: Plan, tier: str, name: str, seed: int) -> Iterator[Row]:
    matrix = replay.frozen()
    rows = replay.draw(matrix, seed)
    for contestant, policy in replay.POLICIES.items():
        if not plan.wants(contestant):
            continue

        def make(contestant: str = contestant, policy: Any = policy) -> list[Row]:
            found = []
            for evaluations in plan.evaluations:
                budget = evaluations * ITEMS
                chosen = {
                    share: policy(matrix, rows, seed, int(float(share.rstrip("%")) / 100 * budget))
                    for share in SHARES
                }
                truth = {share: float(matrix.truth[at]) for share, (at, _) in chosen.items()}
                found.append(
                    Row(
                        *(tier, name, contestant, seed, evaluations, budget),
                        dict(truth),
                        truth["100%"],
                        chosen["100%"][1],
                    )
                )
            return found

        yield from _kept(plan, tier, name, seed, contestant, make)


def seeds_from(text: str) -> Sequence[int]:
    """``20`` is the first 20; ``100:120`` is a block of fresh ones."""
    first, _, last = text.rpartition(":")
    return range(int(first or 0), int(last))
