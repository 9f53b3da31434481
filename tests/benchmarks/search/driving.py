"""evomerge's optimizers on a ground: a search in short, by item-forwards.

As a run does it: known recipes first, generations on items that all their candidates share, a shortlist that is scored
on items of its own. A slope takes an evaluation's items at ``ground.BACKWARD`` forwards each, and its candidate is glanced
at; comparisons are on items by which no slope is taken. The optimizer's part ends where its next batch, and the
shortlist, would pass the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from evomerge import optimizers, seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told
from evomerge.params import Genome, Value
from tests.benchmarks.search.ground import (
    BACKWARD,
    FRONT,
    Array,
    Ground,
    Numbers,
    Point,
    Trace,
)

RECOMMENDED = 3  # most that the optimizer puts on the shortlist, beside the best observed
SPLITS = {
    "search": 0.50,
    "fresh": 0.25,
    "select": 0.25,
}  # of the items; fresh ones belong to the search, too
GLANCE = 3  # a slope's candidate is scored on one of so many of its items
COMPARED = 2  # evaluations that each side of a comparison takes


@dataclass(frozen=True)
class Entry:
    """An optimizer as it enters: its name in evomerge, the form it searches, its options."""

    optimizer: str
    form: str = "groups"
    population: int | None = None
    options: tuple[tuple[str, Value], ...] = ()


def available(names: Sequence[str]) -> list[str]:
    """Those of the optimizers that there are."""
    known = optimizers.OPTIMIZERS.names()
    return [name for name in names if name in known]


def drive(entry: Entry, ground: Ground, seed: int, budget: int, items: int) -> Trace:
    """A whole search.

    Args:
        entry: what searches.
        ground: what is searched.
        seed: of the optimizer and of the draws of items.
        budget: item-forwards.
        items: that a candidate is asked, of all tasks together: an evaluation.
    """
    return _Search(entry, ground, seed, budget, items).run()


class _Search:
    def __init__(self, entry: Entry, ground: Ground, seed: int, budget: int, items: int) -> None:
        self.form, self.ground, self.seed, self.budget = entry.form, ground, seed, budget
        self.each = max(1, items // len(ground.names))  # of a task
        self.trace = Trace()
        self.optimizer: Optimizer = optimizers.make(
            entry.optimizer,
            problem_of(ground, entry.form),
            seed=seed,
            population=entry.population,
            options=dict(entry.options),
        )
        order = seeds.generator("driving", seed, "split").permutation(len(ground.tasks))
        ends = np.cumsum([int(share * len(order)) for share in SPLITS.values()])[:-1]
        self.pools: dict[str, Numbers] = dict(zip(SPLITS, np.split(order, ends), strict=True))
        self.observed = getattr(self.optimizer, "OBSERVED", 6)
        self.seen: dict[Genome, list[float]] = {}

    @property
    def _evaluation(self) -> int:
        return self.each * len(self.ground.names)

    def run(self) -> Trace:
        known = list(self.ground.starts(self.form).values())
        self._tell(1, 0, [Ask(genome) for genome in known])
        batch = 2
        reserve = (self.observed + RECOMMENDED) * self._evaluation
        while asks := self.optimizer.ask(self.optimizer.population, batch):
            left = self.budget - self.trace.spent - reserve
            price = self._price(asks)
            if price > left:
                asks = asks[: int(left // (price / len(asks)))]
            if not asks:
                break
            self._tell(batch, batch, asks)
            batch += 1
        self._select()
        return self.trace

    def _price(self, asks: Sequence[Ask]) -> int:
        each = self._evaluation
        if any(_fresh(ask) for ask in asks):
            return COMPARED * each * len(asks)
        return sum(
            BACKWARD * each + max(1, self.each // GLANCE) * len(self.ground.names)
            if ask.slope
            else each
            for ask in asks
        )

    def _tell(self, batch: int, seen: int, asks: Sequence[Ask]) -> None:
        told: list[Told] = []
        if any(_fresh(ask) for ask in asks):
            told = self._compared(asks, self._draw(("fresh",), COMPARED * self.each, batch))
        else:
            items = self._draw(("search", "fresh"), self.each, batch)
            told = [
                self._sloped(ask, batch) if ask.slope else self._told(ask, items) for ask in asks
            ]
        self.trace.spent += self._price(asks)
        self.optimizer.tell(batch, seen, told)
        if found := self.optimizer.recommend(1):
            self.trace.note(Point(self.form, found[0]))

    def _told(self, ask: Ask, items: Numbers) -> Told:
        genome = tuple(ask.genome)
        answers = self.ground.answers(Point(self.form, genome), items)
        if answers is None:
            return Told(genome, None)
        scores = self.ground.scores(answers, items)
        if not ask.slope:
            self.seen.setdefault(genome, []).append(float(scores.mean()))
        errors = self._errors(answers, items)
        return Told(genome, float(scores.mean()), tuple(scores.tolist()), tuple(errors.tolist()))

    def _sloped(self, ask: Ask, batch: int) -> Told:
        """With the derivative of the score, which a bounded loss stands in for."""
        items = self._draw(("search",), self.each, batch)
        glanced = self._draw(("search",), max(1, self.each // GLANCE), batch)
        rows = -self.ground.slope(Point(self.form, tuple(ask.genome)), items)
        extra: dict[str, Any] = {"slope": tuple(rows.mean(0).tolist())}
        if "slopes" in _TOLD:
            extra["slopes"] = tuple(map(tuple, rows.tolist()))
        return replace(self._told(ask, glanced), **extra)

    def _compared(self, asks: Sequence[Ask], items: Numbers) -> list[Told]:
        """With the lead on the first, paired item by item, and its standard error."""
        told = [self._told(ask, items) for ask in asks]
        points = [Point(self.form, tuple(ask.genome)) for ask in asks]
        first = self.ground.answers(points[0], items)
        found = []
        for each, point in zip(told, points, strict=True):
            ours = self.ground.answers(point, items)
            if first is None or ours is None:
                found.append(each)
                continue
            lead = float(self.ground.scores(ours - first, items).mean())
            error = float(np.linalg.norm(self._errors(ours - first, items)))
            extra: dict[str, Any] = {"lead": (lead, error / len(self.ground.names))}
            found.append(replace(each, **extra))
        return found

    def _errors(self, answers: Array, items: Numbers) -> Array:
        """Standard errors of the tasks' means."""
        tasks = self.ground.tasks[items]
        spread = [answers[tasks == task].std() for task in range(len(self.ground.names))]
        return np.array(spread) / np.sqrt(len(items) / len(self.ground.names))

    def _draw(self, pools: Sequence[str], count: int, *key: seeds.Part) -> Numbers:
        """``count`` items of each task from some pools, or all there are; fewer are the first of more."""
        pool = np.concatenate([self.pools[name] for name in pools])
        rng = seeds.generator("driving", self.seed, *pools, *key)
        order = pool[rng.permutation(len(pool))]
        tasks = self.ground.tasks[order]
        drawn = [order[tasks == task][:count] for task in range(len(self.ground.names))]
        return np.concatenate(drawn)

    def _select(self) -> None:
        """Who answers best on items that the search did not see."""
        recommended = [tuple(genome) for genome in self.optimizer.recommend(FRONT)]
        best = sorted(self.seen, key=lambda genome: -np.mean(self.seen[genome]))
        chosen = dict.fromkeys([*recommended[:RECOMMENDED], *best[: self.observed]])
        if not chosen:
            return
        left = max(self.budget - self.trace.spent, len(chosen) * self._evaluation)
        count = left // len(chosen) // len(self.ground.names)
        items = self._draw(("select",), count, "select")
        scores: dict[Genome, float] = {}
        for genome in chosen:
            answers = self.ground.answers(Point(self.form, genome), items)
            self.trace.spent += len(items)
            if answers is not None:
                scores[genome] = float(self.ground.scores(answers, items).mean())
        if scores:
            winner = max(scores, key=lambda genome: scores[genome])
            self.trace.note(Point(self.form, winner), scores[winner])
            offered = dict.fromkeys([winner, *recommended])
            self.trace.front = [Point(self.form, genome) for genome in offered][:FRONT]


_TOLD = {field.name for field in fields(Told)}
_PROBLEM = {field.name for field in fields(Problem)}


def _fresh(ask: Ask) -> bool:
    return bool(getattr(ask, "fresh", False))


def problem_of(ground: Ground, form: str) -> Problem:
    """The problem that a form poses, with all that optimizers here are told of one."""
    dims, extra = ground.dims(form), {}
    if "smooth" in _PROBLEM:
        from evomerge import params

        extra["smooth"] = tuple(dim.kind == "real" for dim in dims)
        extra["levels"] = tuple(
            params.Level(name, tuple(classes)) for name, classes in ground.levels(form).items()
        )
    return Problem(dims, ground.names, **extra)
