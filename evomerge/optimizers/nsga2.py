"""NSGA-II: a population that spreads over the front of several objectives.

Paper: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Transactions
    on Evolutionary Computation 6, 2002.
Deviations: one child a mating; whoever was told competes, asked here or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.optimizers.pareto.fronts import crowding, fronts, points_of, spread
from evomerge.optimizers.pareto.variation import child
from evomerge.params import Genome, Value


class NSGA2(Optimizer):
    """Non-dominated sorting with crowding; recommends members that spread over the front.

    * The members are the best of the members and of what is told, as many as a population: feasible
      ones front by front, the last front by crowding; then others by how much they violate. Failures
      never enter. Of one genome the newest telling counts.
    * Parents win a tournament of two. While there are fewer members than a population, as after
      known recipes, the rest of a batch is drawn uniformly.
    * Values that are noisy keep a lucky member for long: the search scores the front again.
    """

    name: ClassVar[str] = "nsga2"

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._members: list[Told] = []  # the best first, as tournaments take them

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 32  # so many points show a front of two or three objectives

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        newest = {tuple(each.genome): each for each in [*self._members, *told]}
        alive = [each for each in newest.values() if each.score is not None]
        feasible = [each for each in alive if not each.violation]
        others = sorted((each for each in alive if each.violation), key=lambda each: each.merit)
        self._members = (self._survivors(feasible, batch) + others)[: self.population]

    def ask(self, count: int, batch: int) -> list[Ask]:
        return [Ask(self._drawn(number, batch)) for number in range(count)]

    def recommend(self, count: int) -> list[Genome]:
        """The best score on the front first, then who lies farthest from those before."""
        if not self._members:
            return []
        if self._members[0].violation:
            return [canonical(self.dims, self._members[0].genome)][:count]
        feasible = [each for each in self._members if not each.violation]
        points = points_of(feasible)
        front = fronts(points)[0]
        first = min(range(len(front)), key=lambda at: feasible[front[at]].merit)
        chosen = [feasible[front[at]].genome for at in spread(points[front], first, count)]
        return list(dict.fromkeys(canonical(self.dims, genome) for genome in chosen))

    def _survivors(self, feasible: Sequence[Told], batch: int) -> list[Told]:
        """At most a population of them, the best first."""
        if not feasible:
            return []
        points = points_of(feasible)
        order: list[int] = []
        for front in fronts(points):
            gaps = crowding(points[front])
            order += [front[at] for at in np.argsort(-gaps, kind="stable")]
            if len(order) >= self.population:
                break
        return [feasible[at] for at in order[: self.population]]

    def _drawn(self, number: int, batch: int) -> Genome:
        """The genome that is asked as ``number`` of a batch."""
        generator = seeds.generator(self.seed, "ask", batch, number)
        members = len(self._members)
        if number % self.population >= members or members < 2:
            return canonical(self.dims, generator.random(len(self.dims)).tolist())
        one, other = (self._members[self._winner(generator)].genome for _ in range(2))
        return child(self.dims, canonical(self.dims, one), canonical(self.dims, other), generator)

    def _winner(self, generator: np.random.Generator) -> int:
        """The better of two members drawn by lot."""
        return int(generator.choice(len(self._members), 2, replace=False).min())
