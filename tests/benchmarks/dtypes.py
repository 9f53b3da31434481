"""What scoring in bfloat16 instead of float32 does to the order of candidates, and what it saves.

    python tests/benchmarks/dtypes.py RUN [--candidates 40] [--items 100]

Merges random recipes of the run's search space and scores each in both dtypes on the same items of the
search split. The table says for each objective how many pairs of candidates change their order; beside
it, how many change it when the items are drawn anew, which is what any search lives with.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from merge import row, table
from numpy.typing import NDArray

from evomerge import seeds
from evomerge.recipe import Recipe
from evomerge.run.preflight import Run, prepare
from evomerge.run.spec import load_run
from evomerge.suite import splits
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import column
from evomerge.suite.suite import Items, Results, Suite
from evomerge.worker import Job, Setup, Worker

REDRAWS = 200
EXACT, FAST = "float32", "bfloat16"

Vector = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """Base, parents and candidates scored in one dtype; ``seconds`` are CPU seconds of all of them."""

    references: Mapping[str, Results]
    candidates: Sequence[Results]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder or its run.yaml")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--items", type=int, default=100, help="per task, at most")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    job = prepare(load_run(options.run))
    items = splits.subset(job.suite.splits["search"], options.items, "dtypes")
    recipes = draw(job, options.candidates)
    exact, fast = (score(job, recipes, items, dtype) for dtype in (EXACT, FAST))
    table(
        f"{options.run}: {len(recipes)} random recipes scored in {FAST} beside {EXACT}, "
        f"{exact.seconds / fast.seconds:.2f} times as fast "
        f"({exact.seconds:.0f} and {fast.seconds:.0f} CPU seconds)",
        "what | items | answers changed | largest change of a value | Kendall's tau "
        "| pairs whose order changes | of those more than a standard error apart "
        "| pairs whose order changes with other items",
    )
    measured = {objective.name: objective for objective in job.suite.measured}
    for name, cells in compare(job.suite, items, exact, fast).items():
        objective = measured.get(name)
        asked = len(items[objective.scorer]) if objective else sum(map(len, items.values()))
        turned = answers(objective, exact, fast) if objective else "-"
        row(name, str(asked), turned, *cells)


def draw(job: Run, count: int) -> list[Recipe]:
    """Uniform draws from the run's search space."""
    genes = seeds.generator("dtypes", "recipes").random((count, len(job.space.dims)))
    return [job.space.decode(tuple(genome)) for genome in genes.tolist()]


def score(job: Run, recipes: Sequence[Recipe], items: Items, dtype: str) -> Side:
    """Every recipe on ``items``, the model in ``dtype``."""
    worker = Worker(replace(Setup.from_plain(job.worker("cpu").argument), dtype=dtype))

    def results(recipe: Recipe) -> Results:
        outcome = worker(Job("dtypes", recipe.portable().plain, items))
        if outcome.results is None:
            raise SystemExit(f"a recipe failed: {outcome.error}")
        return outcome.results

    references = {name: results(recipe) for name, recipe in job.space.references().items()}
    start = time.process_time()
    candidates = [results(recipe) for recipe in recipes]
    return Side(references, candidates, time.process_time() - start)


def compare(suite: Suite, items: Items, exact: Side, fast: Side) -> dict[str, list[str]]:
    """The cells of the table by what is ordered: each objective, and their combined score."""
    first = {scorer: np.arange(len(ids)) for scorer, ids in items.items()}
    right, other = table_of(suite, exact, first), table_of(suite, fast, first)
    again = [
        table_of(suite, exact, {s: redraw(len(ids), number, s) for s, ids in items.items()})
        for number in range(REDRAWS)
    ]
    found = {}
    for name, x in right.items():
        y, redrawn = other[name], pairs(np.array([values[name] for values in again]))
        apart = pairs(x)
        changed = np.sign(apart) != np.sign(pairs(y))
        ordered = apart != 0
        clear = np.abs(apart) > redrawn.std(axis=0)
        found[name] = [
            f"{np.abs(x - y).max():.2g}",
            f"{tau(x, y):.3f}",
            share(changed[ordered]),
            share(changed[clear & ordered]),
            share((np.sign(redrawn) != np.sign(apart))[:, ordered]),
        ]
    return found


def table_of(suite: Suite, side: Side, rows: Mapping[str, Rows]) -> dict[str, Vector]:
    """Values of all candidates on some rows of each scorer's items, and their combined score."""

    def values(results: Results) -> dict[str, float]:
        found = {}
        for objective in suite.measured:
            listed = column(results[objective.scorer], objective.metric)
            chosen = [listed[row] for row in rows[objective.scorer]]
            found[objective.name] = suite.scorers[objective.scorer].aggregate(
                objective.metric, chosen
            )
        return suite.with_derived(found)

    references = {name: values(results) for name, results in side.references.items()}
    gains = suite.yardsticks(references)
    candidates = [values(results) for results in side.candidates]
    scores = [suite.combine(each, references, gains).value for each in candidates]
    columns = {o.name: np.array([each[o.name] for each in candidates]) for o in suite.objectives}
    return {**columns, "the combined score": np.array(scores)}


def redraw(count: int, number: int, scorer: str) -> Rows:
    """As many rows, drawn with replacement."""
    return seeds.generator("dtypes", "redraw", number, scorer).integers(count, size=count)


def answers(objective: Objective, exact: Side, fast: Side) -> str:
    """How many answers turn from right to wrong or back; "-" if the metric is no such thing."""
    before, after = (
        [
            value
            for results in side.candidates
            for value in column(results[objective.scorer], objective.metric)
        ]
        for side in (exact, fast)
    )
    right_or_wrong = all(value in (0, 1) for value in before)
    return share(np.array(before) != np.array(after)) if right_or_wrong else "-"


def pairs(values: Vector) -> Vector:
    """Differences of all pairs of the last axis."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return values[..., first] - values[..., second]


def tau(x: Vector, y: Vector) -> float:
    """Kendall's tau-b."""
    a, b = np.sign(pairs(x)), np.sign(pairs(y))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def share(which: NDArray[np.bool_]) -> str:
    return f"{100 * which.mean():.1f}% of {which.shape[-1]}" if which.size else "-"


if __name__ == "__main__":
    main()
