"""The frozen response matrix: many recipes of the embedded family, scored on every item of the demo.

    python tests/benchmarks/matrix.py -o tests/golden/matrix.npz [--scale 1] [--items 500]

The recipes are what searches visit: base, parents and known recipes first (``archive``), random
genomes of several search spaces (``random``), two searches by CMA-ES (``search``), and perturbations
of what they recommend (``around``). ``evomerge.testing.matrix`` reads the file.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from evomerge import config, optimizers, seeds  # noqa: E402
from evomerge.params import Genome  # noqa: E402
from evomerge.recipe import Recipe  # noqa: E402
from evomerge.run.preflight import Run, prepare  # noqa: E402
from evomerge.run.spec import load_run  # noqa: E402
from evomerge.space import SearchSpace, parse_space  # noqa: E402
from evomerge.suite.scorer import Items, Results  # noqa: E402
from evomerge.worker import Job, Setup, Worker  # noqa: E402

# How many recipes of each kind; with the archive's 12 they are 352.
RANDOM = {"demo": 40, "multilingual-instruct": 28, "blocks": 16, "lines": 12, "soup": 6}
SEARCHES, GENERATIONS, POPULATION = 2, 6, 14
AROUND, SPREADS = 68, (0.02, 0.05, 0.1, 0.2)  # standard deviations of a gene

_worker: Worker | None = None


def start_worker(argument: Mapping[str, Any]) -> None:
    global _worker
    _worker = Worker(Setup.from_plain(argument))


def score(recipe: Recipe, items: Items) -> Results:
    """The responses of a recipe, in a worker's process."""
    assert _worker is not None
    outcome = _worker(Job("matrix", recipe.plain, items))
    if outcome.results is None:
        raise SystemExit(f"{recipe.to_yaml()}{outcome.error}")
    return outcome.results


class Matrix:
    """The rows so far. ``score`` maps a recipe's digest to the mean of its objectives."""

    def __init__(self, job: Run, items: Items, executor: Executor) -> None:
        self.job, self.items = job, items
        self.labels: list[str] = []
        self.correct: list[NDArray[np.bool_]] = []
        self.margins: list[NDArray[np.float16]] = []  # nats; NaN where a task has none
        self.score: dict[str, float] = {}
        self._executor = executor

    def add(self, label: str, recipes: Sequence[Recipe]) -> list[float]:
        """Score ``recipes``; one that has a row already gets no second one."""
        new = list({r.digest: r for r in recipes if r.digest not in self.score}.values())
        for number, (recipe, results) in enumerate(
            zip(new, self._executor.map(score, new, [self.items] * len(new)), strict=True)
        ):
            self.score[recipe.digest] = float(np.mean([*self.job.suite.values(results).values()]))
            self.labels.append(f"{label} {number}")
            self.correct.append(np.concatenate([*self._columns(results, "correct")]) == 1)
            margins = np.concatenate([*self._columns(results, "margin")])
            self.margins.append(margins.astype(np.float16))
            print(f"{len(self.labels):4} {self.score[recipe.digest]:.3f} {self.labels[-1]}")
        return [self.score[recipe.digest] for recipe in recipes]

    def _columns(self, results: Results, what: str) -> Iterator[NDArray[np.float64]]:
        """Correctness or margins of every scorer's items, in the order of ``items``."""
        for objective in self.job.suite.objectives:
            responses = results[objective.scorer]
            metric = objective.metric if what == "correct" else what
            absent = [math.nan] * len(responses["items"])
            yield np.array(responses["metrics"].get(metric, absent), float)

    def save(self, path: Path) -> None:
        """Write the rows, the items' ids and their strata: scorer and language."""
        np.savez_compressed(
            path,
            labels=np.array(self.labels),
            items=np.array([id for ids in self.items.values() for id in ids]),
            strata=np.array(
                [f"{scorer} {language(id)}" for scorer, ids in self.items.items() for id in ids]
            ),
            correct=np.packbits(np.array(self.correct), axis=1),
            margins=np.array(self.margins),
        )


def language(id: str) -> str:
    """The language in an item's id: ``number-82-th-percent`` is in Thai."""
    return next(part for part in reversed(id.split("-")) if part in ("en", "id", "th", "vi"))


def preset(job: Run, name: str) -> SearchSpace:
    """The search space ``name`` of this repository, for the run's models."""
    problems = config.Problems()
    node = config.read(ROOT / "search_spaces" / f"{name}.yaml")
    spec = parse_space(node, tuple(job.spec.sources), problems)
    problems.check()
    assert spec is not None
    return SearchSpace(spec, job.template, job.space.layers)


def search(matrix: Matrix, seed: int, generations: int) -> Genome:
    """The point that a search by CMA-ES recommends, which was told scores on all items."""
    space = matrix.job.space
    optimizer = optimizers.make("cma", space.dims, seed=seed, population=POPULATION, options={})
    known = [*space.references().values(), *space.starts().values()]
    genomes = {space.encode(recipe): matrix.score[recipe.digest] for recipe in known}
    genomes.pop(None, None)  # of another method
    optimizer.tell([*genomes], [*genomes.values()])
    for batch in range(2, 2 + generations):
        asked = optimizer.ask(POPULATION, batch)
        scores = matrix.add(f"search {seed}.{batch}", [space.decode(genome) for genome in asked])
        optimizer.tell(asked, scores)
    found = optimizer.recommend()
    assert found is not None
    return found


def perturb(genome: Genome, number: int) -> Genome:
    """A point near ``genome``: normal steps, back into bounds."""
    step = seeds.generator("matrix", "around", number).standard_normal(len(genome))
    return tuple(np.clip(genome + SPREADS[number % len(SPREADS)] * step, 0, 1).tolist())


def fill(matrix: Matrix, scale: float) -> None:
    """Score every recipe: the archive first, then what searches visit."""

    def some(count: int) -> int:
        return math.ceil(scale * count)

    space = matrix.job.space
    matrix.add("archive", [*space.references().values(), *space.starts().values()])
    for name, count in RANDOM.items():
        form = preset(matrix.job, name)
        draws = [
            form.decode(
                [seeds.unit("matrix", name, number, axis) for axis in range(len(form.dims))]
            )
            for number in range(some(count))
        ]
        matrix.add(f"random {name}", draws)
    for seed in range(SEARCHES):
        best = search(matrix, seed, some(GENERATIONS))
        near = [space.decode(perturb(best, number)) for number in range(some(AROUND // SEARCHES))]
        matrix.add(f"around {seed}", [space.decode(best), *near])


def items_of(job: Run, count: int | None) -> Items:
    """Every item of every scorer, or ``count`` of them in all, drawn evenly."""
    every = {name: [item.id for item in s.items()] for name, s in job.suite.scorers.items()}
    if count is None:
        return every
    share = count / sum(map(len, every.values()))
    return {
        name: [id for id in ids if seeds.unit("matrix", name, id) < share]
        for name, ids in every.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of recipes")
    parser.add_argument("--items", type=int, help="score about so many items instead of all")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    job = prepare(load_run(ROOT / "runs/demo/run.yaml"))
    with ProcessPoolExecutor(
        options.workers, get_context("spawn"), start_worker, [job.worker("cpu").argument]
    ) as executor:
        matrix = Matrix(job, items_of(job, options.items), executor)
        fill(matrix, options.scale)
    matrix.save(options.out)


if __name__ == "__main__":
    main()
