"""What each optimizer makes of functions whose best value is known: mixed, conditional, noisy.

    python tests/benchmarks/search/regrets.py [--seeds 20] [--optimizers cma,random,...] [--jobs 1]

A function is drawn anew for each seed (where its optimum lies, which option is right), the same for
every optimizer; three known points are told first, at a third, the middle and two thirds of every
axis. After 100, 300 and 1000 evaluations the optimizer recommends one point, and *its true value* is
what counts: its regret is 1 where it is no better than the best of the known points and 0 at the
optimum. Noise is normal and as large as told, plus a share per batch that all its points have (a batch is
scored on items of its own); one candidate in twenty fails. Prints a table in Markdown: the mean regret
over seeds, and by how much it is below that of ``random``, with a paired 95% interval (t).

An optimizer takes options as ``cma:sigma0=0.1``. ``LIMITS`` spares those whose cost grows with the square
of what they were told.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[3])]

from evomerge import seeds  # noqa: E402
from evomerge.inference.intervals import student  # noqa: E402
from evomerge.optimizers import Problem, Told, canonical, cell, make  # noqa: E402
from evomerge.params import Dim, Genome, Value  # noqa: E402
from evomerge.registry import OPTIMIZERS  # noqa: E402

BUDGETS = (100, 300, 1000)
LIMITS = {"optuna": 300, "optuna:sampler=gp": 100}
FAILING = 0.05

Losses = Callable[[Genome], tuple[float, ...]]  # of two objectives; their mean is to be minimised


@dataclass(frozen=True)
class Function:
    """A function drawn for one seed.

    Attributes:
        dims: its axes.
        losses: 0 is the best of their mean, known points have about 1.
        violation: of a floor; 0 is feasible.
    """

    dims: tuple[Dim, ...]
    losses: Losses
    violation: Callable[[Genome], float] = lambda genome: 0.0

    def loss(self, genome: Genome) -> float:
        return statistics.fmean(self.losses(genome)) + 2 * self.violation(genome)


def reals(count: int) -> tuple[Dim, ...]:
    return tuple(Dim(f"x{axis}", "real") for axis in range(count))


def halves(part: float, other: float) -> tuple[float, float]:
    """Two objectives whose mean is ``part + other``."""
    return 2 * part, 2 * other


def ellipsoid(seed: int) -> Function:
    """14 real axes, rotated, the longest axis 30 times as long as the shortest."""
    draw = seeds.generator("ellipsoid", seed)
    top, turn = draw.uniform(0.1, 0.9, 14), np.linalg.qr(draw.standard_normal((14, 14)))[0]
    scales = np.logspace(0, math.log10(30), 14)

    def losses(genome: Genome) -> tuple[float, ...]:
        terms = scales * (turn @ (np.array(genome) - top)) ** 2 / 4
        return halves(float(terms[::2].sum()), float(terms[1::2].sum()))

    return Function(reals(14), losses)


def rugged(seed: int) -> Function:
    """8 real axes with ten ripples each over a bowl (Rastrigin)."""
    top = seeds.generator("rugged", seed).uniform(0.1, 0.9, 8)

    def losses(genome: Genome) -> tuple[float, ...]:
        away = np.array(genome) - top
        terms = 2 * away**2 + 0.03 * (1 - np.cos(20 * math.pi * away))
        return halves(float(terms[:4].sum()), float(terms[4:].sum()))

    return Function(reals(8), losses)


def mixed(seed: int) -> Function:
    """6 real, 3 integer and 3 categorical axes; each option also moves the optimum of a real one."""
    draw = seeds.generator("mixed", seed)
    dims = (
        *reals(6),
        *(Dim(f"k{axis}", "integer", 7) for axis in range(3)),
        *(Dim(f"m{axis}", "categorical", 4) for axis in range(3)),
    )
    top, whole = draw.uniform(0.1, 0.9, 6), (draw.integers(0, 7, 3) + 0.5) / 7
    right = draw.integers(0, 4, 3)
    shifts = draw.uniform(-0.15, 0.15, (3, 4))
    shifts[range(3), right] = 0

    def losses(genome: Genome) -> tuple[float, ...]:
        chosen = [cell(dims[9 + axis], genome[9 + axis]) for axis in range(3)]
        moved = top.copy()
        moved[:3] += shifts[range(3), chosen]
        smooth = float(((np.array(genome[:6]) - moved) ** 2).sum())
        steps = float(((np.array(genome[6:9]) - whole) ** 2).sum())
        wrong = sum(int(option != r) for option, r in zip(chosen, right, strict=True))
        return halves(2 * smooth + steps, 0.1 * wrong)

    return Function(dims, losses)


def conditional(seed: int) -> Function:
    """A method of four, four genes that count only under it, four that always count.

    The method that looks best at its genes' middle is not the one that is best at its optimum.
    """
    draw = seeds.generator("conditional", seed)
    dims = (Dim("method", "categorical", 4), *reals(20))
    top = draw.uniform(0.1, 0.9, 20)
    base = draw.permutation([0.0, 0.1, 0.2, 0.3])
    top[:16].reshape(4, 4)[base == 0] = draw.choice([0.15, 0.85], 4)
    top[:16].reshape(4, 4)[base == 0.1] = 0.5

    def losses(genome: Genome) -> tuple[float, ...]:
        method = cell(dims[0], genome[0])
        own = np.array(genome[1 + 4 * method : 5 + 4 * method]) - top[4 * method : 4 * method + 4]
        shared = np.array(genome[17:]) - top[16:]
        return halves(float(2 * (own**2).sum() + 2 * (shared**2).sum()), float(base[method]))

    return Function(dims, losses)


def floored(seed: int) -> Function:
    """As ``mixed``, and the optimum of the first objective lies behind a floor: half a sphere away."""
    inner = mixed(seed)
    draw = seeds.generator("floored", seed)
    normal = draw.standard_normal(6)
    normal /= np.linalg.norm(normal)

    def violation(genome: Genome) -> float:  # the middle is feasible
        return max(0.0, float(normal @ (np.array(genome[:6]) - 0.5)) - 0.1)

    return Function(inner.dims, inner.losses, violation)


FUNCTIONS: dict[str, Callable[[int], Function]] = {
    "ellipsoid": ellipsoid,
    "rugged": rugged,
    "mixed": mixed,
    "conditional": conditional,
    "floored": floored,
}
NOISES = (0.0, 0.15)  # standard error of a score, in loss


def options_of(spec: str) -> tuple[str, dict[str, Value]]:
    """``cma:sigma0=0.1,...`` as a name and options."""
    name, _, rest = spec.partition(":")
    options: dict[str, Value] = {}
    for part in filter(None, rest.split(",")):
        key, _, text = part.partition("=")
        try:
            options[key] = float(text) if "." in text else int(text)
        except ValueError:
            options[key] = text
    return name, options


def regrets(spec: str, kind: str, noise: float, seed: int) -> dict[int, float]:
    """Regret of the recommended point by budget."""
    function = FUNCTIONS[kind](seed)
    name, options = options_of(spec)
    population = options.pop("population", None)
    assert population is None or isinstance(population, int)
    problem = Problem(function.dims, ("first", "second"))
    optimizer = make(name, problem, seed=seed, population=population, options=options)

    def told(genome: Genome, batch: int, number: int) -> Told:
        draw = seeds.generator("noise", seed, batch, number)
        if batch and draw.random() < FAILING:
            return Told(genome, None)
        shared = seeds.generator("batch", seed, batch).standard_normal(2)
        errors = noise * (draw.standard_normal(2) + 0.5 * shared)
        values = tuple(
            -loss + float(error)
            for loss, error in zip(function.losses(genome), errors, strict=True)
        )
        return Told(
            genome, statistics.fmean(values), values, (noise,) * 2, function.violation(genome)
        )

    known = [canonical(function.dims, [gene] * len(function.dims)) for gene in (0.34, 0.5, 0.66)]
    start = min(map(function.loss, known))
    optimizer.tell(1, 0, [told(genome, 0, number) for number, genome in enumerate(known)])
    found: dict[int, float] = {}
    spent, batch = 0, 2
    for budget in BUDGETS:
        if budget > LIMITS.get(spec, LIMITS.get(name, budget)):
            break
        while spent < budget:
            asks = optimizer.ask(min(optimizer.population, budget - spent), batch)
            optimizer.tell(batch, batch, [told(ask.genome, batch, n) for n, ask in enumerate(asks)])
            spent, batch = spent + len(asks), batch + 1
        found[budget] = function.loss(optimizer.recommend(1)[0]) / start
    return found


def table(
    specs: Sequence[str],
    results: Mapping[tuple[str, str, float, int], dict[int, float]],
    count: int,
) -> str:
    """Rows: function, noise and budget; columns: optimizers."""
    head = f"| function | noise | evaluations | {' | '.join(specs)} |"
    rows = [head, "| --- | ---: | ---: |" + " ---: |" * len(specs)]
    for kind in dict.fromkeys(kind for _, kind, _, _ in results):
        for noise in dict.fromkeys(noise for _, k, noise, _ in results if k == kind):
            for budget in BUDGETS:
                cells = []
                for spec in specs:
                    mine = [results[spec, kind, noise, s].get(budget) for s in range(count)]
                    ours = [value for value in mine if value is not None]
                    if len(ours) < count:
                        cells.append("")
                        continue
                    text = f"{statistics.fmean(ours):.3f}"
                    if spec != "random":
                        other = [results["random", kind, noise, s][budget] for s in range(count)]
                        gains = [o - m for o, m in zip(other, ours, strict=True)]
                        half = student(count - 1, 0.95) * statistics.stdev(gains) / count**0.5
                        text += f" ({statistics.fmean(gains):+.3f} ± {half:.3f})"
                    cells.append(text)
                rows.append(f"| {kind} | {noise:g} | {budget} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--optimizers", help="separated by spaces (default: all that are registered)"
    )
    parser.add_argument("--functions", default=" ".join(FUNCTIONS), help="separated by spaces")
    parser.add_argument("--jobs", type=int, default=1, help="searches at a time")
    options = parser.parse_args()
    specs = options.optimizers.split() if options.optimizers else OPTIMIZERS.names()
    specs = list(dict.fromkeys(["random", *specs]))
    jobs = [
        (spec, kind, noise, seed)
        for kind in options.functions.split()
        for noise in NOISES
        for spec in specs
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        found = list(pool.map(regrets, *zip(*jobs, strict=True), chunksize=4))
    print(table(specs, dict(zip(jobs, found, strict=True)), options.seeds))


if __name__ == "__main__":
    main()
