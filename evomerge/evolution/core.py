"""The search core: proposes batches, observes evaluations. No files, clocks, threads or Ray.

``propose`` is a function of what the history has folded so far, so a resumed search that folds the
journal stands exactly where the interrupted one stood.

Batches, in order:

* ``references``: the base and each parent, on the whole search split. They fix the yardsticks.
* ``start``: the known recipes, on the whole search split; the optimizer's warm start.
* ``search``: what the optimizer asks for. The ask for batch b sees exactly the tells of batches
  up to b - lag (the first two batches are always seen), however early results arrive. The same
  batches decide what is left of the budgets.
* ``select``: the shortlist, re-scored on items that no search has seen, in rounds of growing size;
  after each, whoever was beaten is dropped.
* ``report``: base, parents, baselines and the winner, on items that no choice has seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.evolution.archive import best, knees
from evomerge.evolution.history import SEARCHED, Batch, Candidate, Combine, History, Yardsticks
from evomerge.optimizers import Optimizer
from evomerge.recipe import Recipe
from evomerge.space import SearchSpace
from evomerge.suite.objectives import Objective

SHORTLIST = 6  # best candidates by search score that are re-scored on the select split
SPLIT = {  # phase -> the item split that it is scored on
    "references": "search",
    "start": "search",
    "search": "search",
    "select": "select",
    "report": "report",
}


@dataclass(frozen=True)
class Plan:
    """How far a search goes, and in which steps.

    Attributes:
        evaluations: candidates before the shortlist; None for no limit.
        population: candidates of a batch.
        lag: in batches.
        items, tokens: other limits on what is spent before the shortlist.
        cost: items that a candidate is asked when a part (0 to 1) of the search is over.
    """

    evaluations: int | None
    population: int
    lag: int = 1
    items: int | None = None
    tokens: int | None = None
    cost: Callable[[float], int] = lambda progress: 1


@dataclass(frozen=True)
class _Budget:
    """``used`` of ``allowed`` (None: unlimited), ``start`` of it by batches 0 and 1.

    ``price`` is what a candidate takes when a part of the search is over.
    """

    allowed: int | None
    used: float
    start: float
    price: Callable[[float], float]

    def progress(self, population: int) -> float:
        """The part of the search that is over: 0 at its first generation, 1 at its last."""
        if self.allowed is None:
            return 0.0
        steps = self.allowed - self.start - population * self.price(1.0)
        return min(1.0, (self.used - self.start) / max(1.0, steps))

    def left(self, progress: float) -> int:
        """Candidates that it still pays for."""
        if self.allowed is None:
            return sys.maxsize
        return int(max(0.0, self.allowed - self.used) / max(self.price(progress), 1e-9))


class Search(History):
    """A history that knows what to ask next.

    Args:
        space: maps genomes and recipes.
        optimizer: freshly made; it is told what the fold brings.
        plan: budget and batch size.
        combine, yardsticks: see ``History``.
        objectives: if more than one is measured, the front's knees join the shortlist.
        starts: known recipes by label; default: the space's.
    """

    def __init__(
        self,
        space: SearchSpace,
        optimizer: Optimizer,
        plan: Plan,
        *,
        combine: Combine,
        yardsticks: Yardsticks,
        objectives: Sequence[Objective] = (),
        starts: Mapping[str, Recipe] | None = None,
    ) -> None:
        super().__init__(combine, yardsticks)
        self.space, self.optimizer, self.plan = space, optimizer, plan
        self._objectives = [objective for objective in objectives if not objective.of]
        self._starts = space.starts() if starts is None else starts
        self._told = 0  # batches told to the optimizer

    def propose(self) -> Batch | None:
        """The next batch; None while results are awaited, and when the search is done."""
        number = len(self._batches)
        if number == 0:
            return self._batch("references", self._named(self.space.references()))
        if self.phase == "report":
            return None
        if self.phase == "select":
            return self._after_select()
        if number == 1:
            return self._batch("start", self._named(self._starts)) if self.complete() else None
        seen = max(2, number - self.plan.lag + 1)
        if not all(progress.complete for progress in self._batches[:seen]):
            return None
        count, progress = (0, 1.0) if self.closed else self._outlook(seen)
        if count <= 0:
            return self._select_batch() if self.complete() else None
        self._tell(seen)
        genomes = self.optimizer.ask(count, number)
        first = len(self.candidates)
        return self._batch(
            "search",
            [
                Candidate(first + i, self.optimizer.name, self.space.decode(genome), genome)
                # as drawn, not canonical: CMA-ES learns from its own points, not from rounded ones
                for i, genome in enumerate(genomes)
            ],
            progress,
        )

    def _outlook(self, seen: int) -> tuple[int, float]:
        """How many candidates come next, and which part of the search is over before them.

        What the first ``seen`` batches cost counts as it was, what later ones will cost as it is
        expected, so early results change nothing. The first budget that runs out ends the search.
        """
        plan, known = self.plan, sum(len(p.batch.candidates) for p in self._batches[:2])
        items, tokens = self._sum("items", seen), self._sum("tokens", seen)
        rate = tokens / max(1, items)
        ahead = sum(
            len(p.batch.candidates) * plan.cost(p.batch.progress) for p in self._batches[seen:]
        )
        budgets = [
            _Budget(plan.evaluations, self.searched, known, lambda progress: 1),
            _Budget(plan.items, items + ahead, self._sum("items", 2), plan.cost),
            _Budget(
                plan.tokens,
                tokens + rate * ahead,
                self._sum("tokens", 2),
                lambda p: rate * plan.cost(p),
            ),
        ]
        progress = max(budget.progress(plan.population) for budget in budgets)
        count = min(plan.population, *(budget.left(progress) for budget in budgets))
        newest = self._batches[seen - 1].evaluations.values()
        cost = "tokens" if plan.items is None else "items"
        if plan.evaluations is None and seen > 2 and not any(getattr(e, cost) for e in newest):
            count = 0  # nothing new was asked, as nothing is left to ask: no budget would run out
        return count, progress

    def _batch(self, phase: str, candidates: Iterable[Candidate], progress: float = 0.0) -> Batch:
        return Batch(len(self._batches), phase, tuple(candidates), progress)

    def _named(self, recipes: Mapping[str, Recipe]) -> list[Candidate]:
        first = len(self.candidates)
        return [
            Candidate(first + i, label, recipe, self.space.encode(recipe))
            for i, (label, recipe) in enumerate(recipes.items())
        ]

    def _tell(self, count: int) -> None:
        """Tell the optimizer batches up to ``count``, once each, in order."""
        for progress in self._batches[self._told : count]:
            if progress.batch.phase in SEARCHED:
                known = [c for c in progress.batch.candidates if c.genome is not None]
                scores = [progress.scores[c.id] for c in known]
                if known:
                    self.optimizer.tell(
                        [c.genome for c in known if c.genome is not None],
                        [None if score is None else score.told for score in scores],
                    )
        self._told = max(self._told, count)

    def _select_batch(self) -> Batch:
        """Shortlist: references, baselines, the best observed, the front's knees, the recommendation."""
        self._tell(len(self._batches))
        chosen = [c for c in self._batches[0].batch.candidates]
        chosen += [self.candidates[i] for i in self.baselines]
        distinct = {
            self.candidates[e.candidate].recipe.digest: e
            for e in best(self.merges(), len(self.candidates))[::-1]
        }
        chosen += [self.candidates[e.candidate] for e in best(list(distinct.values()), SHORTLIST)]
        if len(self._objectives) > 1:
            front = knees(list(distinct.values()), self._objectives)
            chosen += [self.candidates[e.candidate] for e in front]
        genome = self.optimizer.recommend()
        if genome is not None:
            genome = self.space.canonical(genome)
            drawn = [c for c in self.candidates.values() if c.genome is not None]
            known = next((c for c in drawn if self.space.canonical(c.genome or ()) == genome), None)
            recipe, origin = self.space.decode(genome), f"{self.optimizer.name} recommends"
            chosen.append(known or Candidate(len(self.candidates), origin, recipe, genome))
        unique = {c.recipe.digest: c for c in reversed(chosen)}
        return self._batch("select", sorted(unique.values(), key=lambda c: c.id))

    def _after_select(self) -> Batch | None:
        """The next round for who is left, or the report; None until the newest round is judged."""
        newest = self._batches[-1].batch
        verdict = self.verdicts[-1] if self.verdicts else None
        if verdict is None or verdict.batch != newest.number:
            return None
        if verdict.last:
            return self._report_batch()
        out = {each.candidate for each in verdict.dropped}
        out |= {e.candidate for e in self.evaluations(newest.number).values() if e.values is None}
        return self._batch("select", [c for c in newest.candidates if c.id not in out])

    def _report_batch(self) -> Batch:
        members = {c.id for c in self._batches[0].batch.candidates} | set(self.baselines)
        if self.winner is not None:
            members.add(self.winner)
        return self._batch("report", [self.candidates[i] for i in sorted(members)])
