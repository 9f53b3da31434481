"""Whose winner can be bet on: the best of noisy scores, or evomerge's?

    python tests/benchmarks/winners.py [RUN.yaml] [--seeds 20] [--items 30] [--jobs 2] [--out DIR]

Searches the demo's job (or another) once a seed with evomerge, and once as tools do that keep the best
score they saw: CMA-ES over a weight a group of tensors and source, the same known recipes, every candidate
scored on one subset that was drawn once, for as many item-evaluations as evomerge spent in all, its last
look at the report split included. Each seed also cuts the items into other splits: a fixed report split is harder or
easier than all items, by the same for every seed. Then every winner is scored on all items of all
tasks: the truth. Prints a table in Markdown; a row a seed, and the means with 95% intervals (t).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]

from evomerge.inference.intervals import student  # noqa: E402

OLD = {
    "space": str(HERE.parents[1] / "search_spaces" / "demo-groups.yaml"),
    "optimizer": {"name": "cma", "sigma0": 0.25, "guard": 0},
}
DEMO = HERE.parents[1] / "runs" / "demo" / "run.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path, default=DEMO)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--items",
        type=int,
        default=30,
        help="of the old rule's fixed subset, a task (default: %(default)s)",
    )
    parser.add_argument(
        "--evaluations", type=int, help="budget of a search (default: the job's own)"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="seeds at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, help="keep the runs here; a finished one is not run again"
    )
    options = parser.parse_args()
    budget = {"budget": {"evaluations": options.evaluations}} if options.evaluations else {}
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            jobs = [
                pool.submit(
                    compare,
                    options.run.resolve(),
                    out.resolve() / f"seed-{seed}",
                    {"seed": seed, **budget},
                    options.items,
                )
                for seed in range(options.seeds)
            ]
            rows = [job.result() for job in jobs]
    print(table(rows, options.items))


def compare(run: Path, folder: Path, changes: Mapping[str, Any], items: int) -> dict[str, float]:
    """One seed: both searches, both winners, the truth about them; ``changes`` are made to the job."""
    result = folder / "result.json"
    if result.exists():
        found: dict[str, float] = json.loads(result.read_text())
        return found
    import evomerge
    from evomerge import config
    from evomerge.pool.serial import SerialPool
    from evomerge.run.preflight import prepare
    from evomerge.run.spec import load_run
    from evomerge.suite import splits

    seed, content = int(changes["seed"]), config.read(run).plain
    suite = (run.parent / content["fitness"]).resolve()
    fitness = config.read(suite).plain
    fitness["include"] = [str(suite.parent / path) for path in fitness.get("include", [])]
    fitness["items"] = {**fitness.get("items", {}), "partition": seed}
    space = str((run.parent / content["space"]).resolve())
    changes = {**changes, "space": space, "fitness": fitness}
    config.write_text(folder / "run.yaml", config.dump({**content, **changes}))
    new = evomerge.search(folder, SerialPool)
    spent = spent_items(folder)
    own = new.table.winner_row
    assert own is not None and own.score is not None
    job = prepare(load_run(folder))
    worker = job.worker().build()
    everything = {
        name: [item.id for item in scorer.items()] for name, scorer in job.suite.scorers.items()
    }
    subset = splits.subset(everything, items, seed, "old rule")
    config.write_text(folder / "old" / "run.yaml", config.dump({**content, **changes, **OLD}))
    old = prepare(load_run(folder / "old"))
    old_recipe, old_score = best_observed(old, worker, subset, spent)
    assert new.winner is not None
    row = {
        "seed": seed,
        "spent": spent,
        "old apparent": old_score,
        "old true": score(job, worker, old_recipe, everything),
        "new apparent": own.score.value,
        "new low": own.score.low,
        "new high": own.score.high,
        "new true": score(job, worker, new.winner, everything),
    }
    result.write_text(json.dumps(row))
    print(f"seed {seed}: {row}", file=sys.stderr, flush=True)
    return row


def spent_items(folder: Path) -> int:
    """Item-evaluations of a finished search: all phases, the probe and the report included."""
    from evomerge.record.events import JOURNAL

    events = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    return sum(event["items"] for event in events if event["event"] == "evaluation")


def best_observed(
    job: Any, worker: Any, subset: Mapping[str, Sequence[str]], spent: int
) -> tuple[Any, float]:
    """The old rule: one subset for all, and the winner is the highest score seen on it."""
    from evomerge.optimizers import Told

    affordable = spent // sum(map(len, subset.values()))
    optimizer, space = job.optimizer(), job.space
    recipes = [*space.references().values(), *space.starts().values()]
    genomes = [space.encode(recipe) for recipe in recipes]
    best: tuple[float, Any] = (-math.inf, None)
    batch, seen, tried = 1, 0, 0
    while tried < affordable:
        scores = [score(job, worker, recipe, subset) for recipe in recipes[: affordable - tried]]
        tried += len(scores)
        best = max([best, *zip(scores, recipes, strict=False)], key=lambda pair: pair[0])
        told = [
            Told(genome, score if math.isfinite(score) else None)
            for genome, score in zip(genomes, scores, strict=False)
            if genome is not None
        ]
        optimizer.tell(batch, seen, told)
        batch = seen = batch + 1
        genomes = [ask.genome for ask in optimizer.ask(optimizer.population, batch)]
        recipes = [space.decode(genome) for genome in genomes]
    return best[1], best[0]


def score(job: Any, worker: Any, recipe: Any, items: Mapping[str, Sequence[str]]) -> float:
    """The plain mean of the objectives on ``items``; -inf if the merge failed."""
    outcome = worker({"key": "score", "recipe": recipe.portable().plain, "items": items})
    if outcome["error"]:
        return -math.inf
    values = job.suite.values(outcome["results"])
    return statistics.fmean(values[objective.name] for objective in job.suite.objectives)


def table(rows: Sequence[Mapping[str, float]], items: int) -> str:
    """The rows, and their means with intervals, in points (percent)."""
    lines = [
        "| seed | item-evaluations | best observed: claimed | true | gap | evomerge: claimed | true | gap | truer by |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    columns: dict[str, list[float]] = {}
    for row in rows:
        values = {
            "old claimed": row["old apparent"],
            "old true": row["old true"],
            "old gap": row["old apparent"] - row["old true"],
            "new claimed": row["new apparent"],
            "new true": row["new true"],
            "new gap": row["new apparent"] - row["new true"],
            "gain": row["new true"] - row["old true"],
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(100 * value)
        cells = [f"{100 * value:.1f}" for value in values.values()]
        lines.append(f"| {row['seed']} | {row['spent']:,} | {' | '.join(cells)} |")
    cells = [f"{mean:.1f} ± {half:.1f}" for mean, half in map(interval, columns.values())]
    lines.append(f"| mean | | {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95% interval (Student's t)."""
    if len(values) < 2:
        return values[0], math.inf
    reach = student(len(values) - 1, 0.95) / math.sqrt(len(values))
    return statistics.fmean(values), reach * statistics.stdev(values)


if __name__ == "__main__":
    main()
