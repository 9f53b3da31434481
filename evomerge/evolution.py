"""The search core: proposes batches, observes evaluations. No files, clocks, threads or Ray.

``propose`` is a function of what the history has folded so far, so a resumed search that folds the
journal stands exactly where the interrupted one stood.

Batches, in order:

* ``references``: the base and each parent, on the whole search split. They fix the yardsticks.
* ``start``: the known recipes, on the whole search split; the optimizer's warm start.
* ``search``: what the optimizer asks for. The ask for batch b sees exactly the tells of batches
  up to b - lag (the first two batches are always seen), however early results arrive.
* ``select``: the shortlist, re-scored on items that no search has seen.
* ``report``: base, parents, baselines and the winner, on items that no choice has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evomerge.archive import best
from evomerge.history import SEARCHED, Batch, Candidate, Combine, History, Yardsticks
from evomerge.optimizers import Optimizer
from evomerge.recipe import Recipe
from evomerge.space import SearchSpace

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
    """How far a search goes: evaluations before the shortlist, size of a batch, lag in batches."""

    evaluations: int
    population: int
    lag: int = 1


class Search(History):
    """A history that knows what to ask next.

    Args:
        space: maps genomes and recipes.
        optimizer: freshly made; it is told what the fold brings.
        plan: budget and batch size.
        combine, yardsticks: see ``History``.
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
        starts: Mapping[str, Recipe] | None = None,
    ) -> None:
        super().__init__(combine, yardsticks)
        self.space, self.optimizer, self.plan = space, optimizer, plan
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
            return self._report_batch() if self.complete() else None
        if number == 1:
            return self._batch("start", self._named(self._starts)) if self.complete() else None
        left = 0 if self.closed else self.plan.evaluations - self.searched
        if left <= 0:
            return self._select_batch() if self.complete() else None
        seen = max(2, number - self.plan.lag + 1)
        if not all(progress.complete for progress in self._batches[:seen]):
            return None
        self._tell(seen)
        genomes = self.optimizer.ask(min(self.plan.population, left), number)
        first = len(self.candidates)
        return self._batch(
            "search",
            [
                Candidate(first + i, self.optimizer.name, self.space.decode(genome), genome)
                # as drawn, not canonical: CMA-ES learns from its own points, not from rounded ones
                for i, genome in enumerate(genomes)
            ],
        )

    def _batch(self, phase: str, candidates: Iterable[Candidate]) -> Batch:
        return Batch(len(self._batches), phase, tuple(candidates))

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
        """Shortlist: references, baselines, the optimizer's recommendation, the best observed."""
        self._tell(len(self._batches))
        chosen = [c for c in self._batches[0].batch.candidates]
        chosen += [self.candidates[i] for i in self.baselines]
        distinct = {
            self.candidates[e.candidate].recipe.digest: e
            for e in best(self.merges(), len(self.candidates))[::-1]
        }
        chosen += [self.candidates[e.candidate] for e in best(list(distinct.values()), SHORTLIST)]
        genome = self.optimizer.recommend()
        if genome is not None:
            genome = self.space.canonical(genome)
            drawn = [c for c in self.candidates.values() if c.genome is not None]
            known = next((c for c in drawn if self.space.canonical(c.genome or ()) == genome), None)
            recipe, origin = self.space.decode(genome), f"{self.optimizer.name} recommends"
            chosen.append(known or Candidate(len(self.candidates), origin, recipe, genome))
        unique = {c.recipe.digest: c for c in reversed(chosen)}
        return self._batch("select", sorted(unique.values(), key=lambda c: c.id))

    def _report_batch(self) -> Batch:
        members = {c.id for c in self._batches[0].batch.candidates} | set(self.baselines)
        if self.winner is not None:
            members.add(self.winner)
        return self._batch("report", [self.candidates[i] for i in sorted(members)])
