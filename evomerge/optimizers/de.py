"""Differential evolution: JADE's steps towards the best, for noisy scores and mixed axes.

Papers: Storn & Price, "Differential Evolution", Journal of Global Optimization 11, 1997;
    Zhang & Sanderson, "JADE", IEEE Transactions on Evolutionary Computation 13, 2009.
Deviations: no archive of losers; categorical axes have no differences, see ``_trial``; what is recommended
    is a mean, which scores that are noisy cannot lead astray as they do the best of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from evomerge import seeds
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical, cell, centre, mean
from evomerge.params import Genome, Value

TOP = 0.15  # JADE's p: the share of the members that trials are drawn towards
LEARNING = 0.1  # JADE's c: the weight of a batch in the means of scale and rate
SPREAD = 0.1  # of scales and rates around these means
STRAY = 0.05  # of an integer or categorical gene, to be drawn anew: a cell that all members left may be right


@dataclass(frozen=True)
class _State:
    """Members by slot (a trial's target is the member of its slot), and the means of scale and rate."""

    members: tuple[Told, ...] = ()
    scale: float = 0.5
    rate: float = 0.5


@dataclass(frozen=True)
class _Trial:
    genome: Genome
    slot: int | None = None  # of the target; None: a uniform draw
    scale: float = 0.5
    rate: float = 0.5


class DE(Optimizer):
    """current-to-pbest/1/bin with JADE's adapting scale and rate.

    * Trial i of a batch belongs to member i, counted in a circle. ``tell`` draws the batch again from
      the state that its ask had seen, and so finds the member and the parameters behind each genome.
    * A trial takes the place of its member if it ranks at least as high: only ranks count.
    * What was not drawn from a member (known recipes, uniform draws) fills free slots, best first, and then
      takes the place of the worst member that it beats.
    """

    name: ClassVar[str] = "de"

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        # by how many batches had been told; asks that are still to be told need the older ones
        self._states = {0: _State()}

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        """Few enough for ten generations of a small budget."""
        return max(12, 2 * (4 + math.floor(3 * math.log(dimensions))))

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        before = max((n for n in self._states if n <= seen), default=min(self._states))
        count = max(len(told), self.population)
        drawn = self._trials(self._states[before], count, batch)
        trial_of = {trial.genome: trial for trial in reversed(drawn)}
        now = self._state
        members, won = list(now.members), []
        guests = []
        for each in told:
            trial = trial_of.get(tuple(each.genome))
            if each.score is None:
                continue
            if trial is None or trial.slot is None:
                guests.append(each)
                continue
            if each.merit <= members[trial.slot].merit:
                won.append(trial)
                members[trial.slot] = each
        for each in sorted(guests, key=lambda guest: guest.merit):
            worst = max(range(len(members)), key=lambda n: members[n].merit, default=0)
            if len(members) < self.population:
                members.append(each)
            elif each.merit < members[worst].merit:
                members[worst] = each
        state = replace(now, members=tuple(members))
        if won:
            scales = [trial.scale for trial in won]
            lehmer = sum(scale**2 for scale in scales) / sum(scales)
            rate = sum(trial.rate for trial in won) / len(won)
            state = replace(
                state,
                scale=(1 - LEARNING) * now.scale + LEARNING * lehmer,
                rate=(1 - LEARNING) * now.rate + LEARNING * rate,
            )
        self._states = {n: s for n, s in self._states.items() if n >= before}
        self._states[batch + 1] = state

    def ask(self, count: int, batch: int) -> list[Ask]:
        return [Ask(trial.genome) for trial in self._trials(self._state, count, batch)]

    def recommend(self, count: int) -> list[Genome]:
        """The mean of the better half of the members, then its members, best first."""
        ranked = sorted(self._state.members, key=lambda told: told.merit)
        better = ranked[: (len(ranked) + 1) // 2]
        feasible = [told for told in better if not told.violation] or better
        found = [mean(self.dims, feasible), *(told.genome for told in better)] if better else []
        return list(dict.fromkeys(canonical(self.dims, genome) for genome in found))[:count]

    @property
    def _state(self) -> _State:
        return self._states[max(self._states)]

    def _trials(self, state: _State, count: int, batch: int) -> list[_Trial]:
        """Pure; a larger count only adds to the end."""
        return [self._trial(state, number, batch) for number in range(count)]

    def _trial(self, state: _State, number: int, batch: int) -> _Trial:
        """v = x + F (best - x) + F (r1 - r2), then each gene of v with probability CR, one at least.

        A gene beyond a bound lies halfway from x to the bound. A categorical gene of v is, with
        probability F, that of ``best``, and else, with probability F, that of r1 if r1 and r2
        differ: what the sum above would move it to, were options numbers.
        """
        generator = seeds.generator(self.seed, "ask", batch, number)
        uniform = generator.random(len(self.dims))
        members, slot = state.members, number % self.population
        if slot >= len(members) or len(members) < 4:
            return _Trial(canonical(self.dims, uniform.tolist()))
        scale = 0.0
        while scale <= 0:  # Cauchy, cut at 1
            scale = min(1.0, state.scale + SPREAD * float(generator.standard_cauchy()))
        rate = min(max(state.rate + SPREAD * float(generator.standard_normal()), 0.0), 1.0)
        order = sorted(range(len(members)), key=lambda n: members[n].merit)
        best = order[generator.integers(max(2, round(TOP * len(members))))]
        others = [n for n in range(len(members)) if n != slot]
        first, second = generator.choice(len(others), 2, replace=False)
        x, b, r1, r2 = (
            np.array(canonical(self.dims, members[n].genome))
            for n in (slot, best, others[first], others[second])
        )
        v = x + scale * (b - x) + scale * (r1 - r2)
        v = np.where(v < 0, x / 2, np.where(v > 1, (x + 1) / 2, v))
        crossed = generator.random(len(self.dims)) < rate
        crossed[generator.integers(len(self.dims))] = True
        follow, differ, stray = generator.random((3, len(self.dims)))
        genes = np.where(crossed, v, x)
        for axis, dim in enumerate(self.dims):
            if dim.kind == "categorical" and crossed[axis]:
                genes[axis] = x[axis]
                if follow[axis] < scale:
                    genes[axis] = b[axis]
                elif differ[axis] < scale and r1[axis] != r2[axis]:
                    genes[axis] = r1[axis]
            if dim.size and stray[axis] < STRAY:
                genes[axis] = centre(dim, cell(dim, uniform[axis]))
        return _Trial(canonical(self.dims, genes.tolist()), slot, scale, rate)
