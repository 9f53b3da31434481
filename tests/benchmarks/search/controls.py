"""What others do, at equal cost: known recipes, random search, and emulations of three tools.

Each control spends a budget of item-forwards on a ground and leaves a trace. All but known recipes recommend the best
score they observed, as the tools do; none but the first is given the known recipes, as the tools have no such thing.
The emulations keep what decides (algorithm, step, population, genes, items, what is recommended), not the plumbing:

* ``mergekit_evolve``: ``cma.fmin2`` with pycma's own population, sigma0 1/6, from weights of 1/models, one weight per
  layer and model without bounds, whose sign is dropped; the same items for every candidate; the best observed.
* ``mergenetic``: pymoo's GA with the settings of the tool's examples: population 25, genes of SLERP on a grid of tenths,
  simulated binary crossover (.9, eta 15, half of the genes), polynomial mutation (eta 20, one gene), binary tournaments,
  the best 25 of old and new survive, no duplicates; 20 items. Seven generations are its budget; what is left of ours
  goes into more.
* ``smac``: "Fine, I'll merge it myself" searches a mixed space of methods with a model-based search and Hyperband over
  prefixes of the items. Here TPE stands in for the random forest; rungs are a third of each other.

Papers: Goddard et al., "Arcee's MergeKit", https://arxiv.org/abs/2403.13257; Minut et al., "Mergenetic",
    https://arxiv.org/abs/2505.11427; Su & Geiping, "Fine, I'll Merge It Myself", https://arxiv.org/abs/2502.04030;
    Li et al., "Hyperband", https://arxiv.org/abs/1603.06560; Deb & Agrawal 1995 (crossover), Deb & Goyal 1996 (mutation).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np

from evomerge import optimizers, seeds
from evomerge.optimizers import Problem, Told
from tests.benchmarks.search.ground import FRONT, Array, Ground, Numbers, Point, Trace

Control = Callable[[Ground, int, int, int], Trace]


class _Fixed:
    """Candidates scored on the same items; the best score observed is the answer.

    Args:
        ground: what is searched.
        budget: item-forwards.
        items: that every candidate answers.
    """

    def __init__(self, ground: Ground, budget: int, items: Numbers) -> None:
        self.ground, self.budget, self.items = ground, budget, items
        self.trace = Trace()
        self.best = -math.inf
        self.seen: list[tuple[Array, Point]] = []

    @property
    def affordable(self) -> int:
        return (self.budget - self.trace.spent) // len(self.items)

    def score(self, point: Point) -> float:
        """-inf for a recipe that fails."""
        answers = self.ground.answers(point, self.items)
        self.trace.spent += len(self.items)
        if answers is None:
            return -math.inf
        scores = self.ground.scores(answers, self.items)
        self.seen.append((scores, point))
        if scores.mean() > self.best:
            self.best = float(scores.mean())
            self.trace.note(point, self.best)
        return float(scores.mean())

    def end(self) -> Trace:
        """With the front of what was observed."""
        self.seen.sort(key=lambda pair: -pair[0].mean())
        for scores, point in self.seen:
            if len(self.trace.front) < FRONT and not any(
                (other >= scores).all() and (other > scores).any() for other, _ in self.seen
            ):
                self.trace.front.append(point)
        return self.trace


def known(ground: Ground, seed: int, budget: int, items: int) -> Trace:
    """The best of the known recipes, each scored on as many items as the budget gives it."""
    points = ground.known()
    share = max(1, budget // len(points) // len(ground.names))
    search = _Fixed(ground, budget, ground.draw(share, "known", seed))
    for point in points.values():
        search.score(point)
    return search.end()


def random(ground: Ground, seed: int, budget: int, items: int) -> Trace:
    """Uniform draws."""
    search = _fixed(ground, seed, budget, items)
    size, number = len(ground.dims("groups")), 0
    while search.affordable:
        genome = seeds.generator("control", "random", seed, number).random(size)
        search.score(Point("groups", tuple(genome.tolist())))
        number += 1
    return search.end()


def mergekit_evolve(ground: Ground, seed: int, budget: int, items: int) -> Trace:
    """See the module's text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma

    search = _fixed(ground, seed, budget, items)
    start = ground.starts("layers")["uniform"]
    weight = ground.largest  # what a gene of 1 means
    options = {"seed": seeds.small("control", "mergekit", seed) + 1, "verbose": -9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = cma.CMAEvolutionStrategy(np.array(start) * weight, 1 / 6, options)
        while search.affordable:
            drawn = strategy.ask()[: search.affordable]
            points = [Point("layers", tuple((np.abs(x) / weight).tolist())) for x in drawn]
            costs = [-search.score(point) for point in points]
            if len(costs) < strategy.popsize:
                break
            strategy.tell(drawn, [cost if math.isfinite(cost) else 1.0 for cost in costs])
            if strategy.stop():  # fmin2 ends here, whatever is left
                break
    return search.end()


GA_POPULATION, GA_ITEMS = 25, 20
_CROSSOVER, _MUTATION = 15.0, 20.0  # eta


def mergenetic(ground: Ground, seed: int, budget: int, items: int) -> Trace:
    """See the module's text."""
    each = max(1, GA_ITEMS // len(ground.names))
    search = _Fixed(ground, budget, ground.draw(each, "control", seed, "mergenetic"))
    size = len(ground.dims("knots"))
    rng = seeds.generator("control", "mergenetic", seed)

    def score(genes: Array) -> float:
        return search.score(Point("knots", tuple(genes.tolist())))

    genes = rng.integers(0, 11, (GA_POPULATION, size)) / 10
    genes = genes[: search.affordable]
    scores = np.array([score(each) for each in genes])
    while search.affordable and len(genes) > 1:
        children: list[Array] = []
        for _ in range(100 * GA_POPULATION):
            if len(children) >= min(GA_POPULATION, search.affordable):
                break
            pair = [_tournament(scores, rng) for _ in range(2)]
            for child in _crossed(genes[pair[0]], genes[pair[1]], rng):
                child = _mutated(child, rng)
                others = [*genes, *children]
                if not any(np.allclose(child, other, atol=1e-16) for other in others):
                    children.append(child)
        children = children[: min(GA_POPULATION, search.affordable)]
        if not children:
            break
        merged = np.vstack([genes, children])
        found = np.concatenate([scores, [score(child) for child in children]])
        kept = np.argsort(-found, kind="stable")[:GA_POPULATION]
        genes, scores = merged[kept], found[kept]
    return search.end()


def _tournament(scores: Array, rng: np.random.Generator) -> int:
    one, other = rng.choice(len(scores), 2, replace=False)
    return int(one if scores[one] >= scores[other] else other)


def _crossed(one: Array, other: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Simulated binary crossover within [0, 1]: Deb & Agrawal 1995."""
    first, second = one.copy(), other.copy()
    if rng.random() > 0.9:
        return first, second
    for axis in np.flatnonzero(rng.random(len(one)) <= 0.5):
        low, high = sorted((one[axis], other[axis]))
        if high - low < 1e-14:
            continue
        draw, ends = rng.random(), []
        for room in (low, 1 - high):
            alpha = 2 - (1 + 2 * room / (high - low)) ** -(_CROSSOVER + 1)
            power = 1 / (_CROSSOVER + 1)
            ends.append(
                (draw * alpha) ** power if draw <= 1 / alpha else (2 - draw * alpha) ** -power
            )
        found = [
            0.5 * (low + high - ends[0] * (high - low)),
            0.5 * (low + high + ends[1] * (high - low)),
        ]
        if rng.random() <= 0.5:
            found.reverse()
        first[axis], second[axis] = np.clip(found, 0, 1)
    return first, second


def _mutated(genes: Array, rng: np.random.Generator) -> Array:
    """Polynomial mutation within [0, 1], of one gene on average: Deb & Goyal 1996."""
    genes = genes.copy()
    for axis in np.flatnonzero(rng.random(len(genes)) <= min(0.5, 1 / len(genes))):
        draw, gene, power = rng.random(), genes[axis], 1 / (_MUTATION + 1)
        if draw <= 0.5:
            step = (2 * draw + (1 - 2 * draw) * (1 - gene) ** (_MUTATION + 1)) ** power - 1
        else:
            rest = 2 * (1 - draw) + (2 * draw - 1) * gene ** (_MUTATION + 1)
            step = 1 - rest**power
        genes[axis] = min(max(gene + step, 0.0), 1.0)
    return genes


ETA, RUNGS = 3, 3  # of Hyperband
MEMORY = 300  # newest results that TPE is told: its time grows with them


def smac(ground: Ground, seed: int, budget: int, items: int) -> Trace:
    """See the module's text; the largest rung is an evaluation's items."""
    form = "mixed" if "mixed" in ground.forms else "groups"
    each = max(1, items // len(ground.names))
    rungs = [max(1, each // ETA ** (RUNGS - 1 - rung)) for rung in range(RUNGS)]
    # prefixes: the same items first, more of them on the next rung
    prefixes = [ground.draw(count, "control", seed, "smac") for count in rungs]
    trace, best, batch = Trace(), (-1, -math.inf), 1
    seen: list[tuple[Array, Point]] = []
    problem = Problem(ground.dims(form), ground.names)
    told: list[Told] = []
    while trace.spent + len(prefixes[0]) <= budget:
        first = (batch - 1) % RUNGS  # brackets: begin lower with many, or higher with few
        count = math.ceil(RUNGS / (RUNGS - first) * ETA ** (RUNGS - 1 - first))
        optimizer = optimizers.make("optuna", problem, seed=seed)
        optimizer.tell(batch, batch, told[-MEMORY:])
        points = [Point(form, ask.genome) for ask in optimizer.ask(count, batch)]
        scores: dict[Point, float] = {}
        reached: dict[Point, int] = {}
        for rung in range(first, RUNGS):
            new = len(prefixes[rung]) - (len(prefixes[rung - 1]) if rung > first else 0)
            asked = points[: int((budget - trace.spent) // max(new, 1))]
            for point in asked:
                answers = ground.answers(point, prefixes[rung])
                trace.spent += new
                reached[point] = rung
                found = None if answers is None else ground.scores(answers, prefixes[rung])
                scores[point] = -math.inf if found is None else float(found.mean())
                if found is not None and rung == RUNGS - 1:
                    seen.append((found, point))
                if (rung, scores[point]) > best:
                    best = rung, scores[point]
                    trace.note(point, scores[point])
            points = sorted(asked, key=lambda point: -scores[point])[: max(1, len(asked) // ETA)]
        told += [  # what only the lowest rung saw says too little
            Told(point.genome, score if math.isfinite(score) else None)
            for point, score in scores.items()
            if reached[point]
        ]
        batch += 1
    end = _Fixed(ground, budget, prefixes[-1])
    end.trace, end.seen = trace, seen
    return end.end()


def _fixed(ground: Ground, seed: int, budget: int, items: int) -> _Fixed:
    each = max(1, items // len(ground.names))
    return _Fixed(ground, budget, ground.draw(each, "control", seed))


CONTROLS: Mapping[str, Control] = {
    "known recipes": known,
    "random": random,
    "mergekit-evolve": mergekit_evolve,
    "mergenetic": mergenetic,
    "smac": smac,
}

ANYTIME = frozenset(CONTROLS) - {"known recipes"}
"""Those whose shorter search is the beginning of the longer one: one trace serves every budget."""
