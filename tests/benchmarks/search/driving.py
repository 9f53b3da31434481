"""evomerge's optimizers on a ground: a search in short, by item-forwards.

As a run does it: known recipes first, generations on items that all their candidates share, a shortlist that is scored
on items of its own. A slope takes the items of its generation and ``ground.BACKWARD`` forwards for each. The
optimizer's part ends where its next batch, and the shortlist, would pass the budget.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
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

SHORTLIST = 5  # best observed, beside what the optimizer recommends
SPLIT = 0.75  # of the items: for the search; the others are the shortlist's


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
            Problem(ground.dims(entry.form), ground.names),
            seed=seed,
            population=entry.population,
            options=dict(entry.options),
        )
        order = ground.draw(len(ground.tasks), "split")
        held = seeds.generator("driving", seed, "split").permutation(len(order))
        parts = np.split(order[held], [int(SPLIT * len(order))])
        self.pools: dict[str, Numbers] = {"search": parts[0], "select": parts[1]}
        self.seen: dict[Genome, list[float]] = {}

    def run(self) -> Trace:
        known = list(self.ground.starts(self.form).values())
        self._tell(1, 0, [Ask(genome) for genome in known])
        batch = 2
        reserve = (SHORTLIST + 2) * self.each * len(self.ground.names)
        while True:
            asks = self.optimizer.ask(self.optimizer.population, batch)
            if not asks:
                break
            price = sum(map(self._price, asks))
            left = self.budget - self.trace.spent - reserve
            if price > left:
                asks = asks[: int(left // (price / len(asks)))]
                if not asks:
                    break
            self._tell(batch, batch, asks)
            batch += 1
        self._select()
        return self.trace

    def _price(self, ask: Ask) -> int:
        scored = self.each * len(self.ground.names) if _scored(ask) else 0
        sloped = BACKWARD * self.each * len(self.ground.names) if ask.slope else 0
        return scored + sloped

    def _tell(self, batch: int, seen: int, asks: Sequence[Ask]) -> None:
        drawn = self._draw("search", self.each, batch)
        told = [self._told(ask, drawn) for ask in asks]
        self.trace.spent += sum(map(self._price, asks))
        self.optimizer.tell(batch, seen, told)
        if found := self.optimizer.recommend(1):
            self.trace.note(Point(self.form, found[0]))

    def _told(self, ask: Ask, items: Numbers) -> Told:
        point = Point(self.form, tuple(ask.genome))
        extra: dict[str, Any] = {}
        if ask.slope:
            rows = self.ground.slope(point, items)
            extra["slope"] = tuple(rows.mean(0).tolist())
            if "slopes" in {field.name for field in fields(Told)}:
                extra["slopes"] = tuple(map(tuple, rows.tolist()))
        if not _scored(ask):
            return Told(point.genome, None, **extra)
        answers = self.ground.answers(point, items)
        if answers is None:
            return Told(point.genome, None)
        scores = self.ground.scores(answers, items)
        self.seen.setdefault(point.genome, []).append(float(scores.mean()))
        return Told(
            point.genome,
            float(scores.mean()),
            tuple(scores.tolist()),
            tuple(self._errors(answers, items).tolist()),
            **extra,
        )

    def _errors(self, answers: Array, items: Numbers) -> Array:
        """Standard errors of the tasks' means."""
        tasks = self.ground.tasks[items]
        spread = [answers[tasks == task].std() for task in range(len(self.ground.names))]
        return np.array(spread) / np.sqrt(self.each)

    def _draw(self, pool: str, count: int, *key: seeds.Part) -> Numbers:
        """``count`` items of each task from a pool, or all it has."""
        rng = seeds.generator("driving", self.seed, pool, *key)
        order = self.pools[pool][rng.permutation(len(self.pools[pool]))]
        tasks = self.ground.tasks[order]
        drawn = [order[tasks == task][:count] for task in range(len(self.ground.names))]
        return np.concatenate(drawn)

    def _select(self) -> None:
        """Who answers best on items that the search did not see."""
        recommended = [tuple(genome) for genome in self.optimizer.recommend(FRONT)]
        best = sorted(self.seen, key=lambda genome: -np.mean(self.seen[genome]))
        chosen = dict.fromkeys([*recommended[:1], *best[:SHORTLIST]])
        if not chosen:
            return
        per = self.each * len(self.ground.names)
        left = max(self.budget - self.trace.spent, len(chosen) * per)
        items = self._draw("select", left // len(chosen) // len(self.ground.names), "select")
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


_SCORE = "score" in inspect.signature(Ask).parameters


def _scored(ask: Ask) -> bool:
    return bool(getattr(ask, "score", True)) if _SCORE else True
