"""Slopes first, coarse to fine, then evolution: what to use unless you know better.

    known recipes -> descents, level by level -> CMA-ES with a small step, by the exact metrics

* **Descents** start from the best recipe known, on coarse levels of detail (a value a group of tensors) for a
  quarter of the steps, on the finest for all of them (``Problem.levels``; a level is left out that is hardly
  coarser than the next). What each finds is compared with what it started from on search items by which no
  slope was taken, and kept only if it leads there. The finest level is descended on for as long as that helps.
* **Evolution** begins at what was kept, with a step of a few percent of each range, along classes of axes, and
  over choices of methods and all else that has no slope. Its mean is guarded, as ``cma`` does it.
* **Without slopes** evolution itself goes coarse to fine: few values first, then all, then choices of methods;
  each level is kept as far as it leads.

``decisions`` says what was found and why. A descent by bounded stand-ins is a proxy: the exact metric decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.optimizers.cma import CMA
from evomerge.optimizers.kernel.descent import Descent
from evomerge.optimizers.kernel.reduced import Reduced
from evomerge.optimizers.slope import RATE, STEPS
from evomerge.params import Genome, Integer, Level, Parameter, Real, Shared, Value

EARLY = 5  # what a descent found is recommended from one of so many of its steps on
COARSE = 4  # a coarse level gets one of so many planned steps
REACH = 0.5  # how wide evolution looks around what descents found, as a part of each range


@dataclass(frozen=True)
class _Stage:
    """A descent or an evolution on a level; ``generations`` until its mean is compared."""

    kind: str  # descend | evolve
    level: Level
    steps: int
    choices: bool = True  # whether axes without an order move, too
    last: bool = False


class Auto(Optimizer):
    """See the module's text; recommends what led on fresh items, the newest first.

    Where slopes led, nothing joins that on the shortlist for its search score alone: it would be luck more
    often than not.
    """

    name: ClassVar[str] = "auto"
    FEWER: ClassVar[bool] = True
    DESCENDS: ClassVar[bool] = True
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        RATE,
        STEPS,
        Parameter(
            "sigma",
            Shared(Real(0.01, 0.3, default=0.05, valid=(0.001, 1))),
            "the first step of the evolution, as a part of each range",
        ),
        Parameter(
            "evidence",
            Shared(Real(0, 3, default=0.5, valid=(0, 10))),
            "standard errors by which a refinement must lead to be kept",
        ),
        Parameter(
            "patience",
            Shared(Integer(1, 1000, default=6)),
            "generations of a level of the evolution, where it goes coarse to fine",
        ),
    )

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._stages = _plan(problem, self._whole("steps"), self._whole("patience"))
        self._stage = 0
        # what slopes reach is recommended by itself; the rest only by what was seen of it
        self.observed = 0 if problem.smooth and all(problem.smooth) else self.observed
        self._best: Told | None = None  # of the known recipes
        self._kept: Genome = canonical(self.dims, [0.5] * len(self.dims))
        self._found: list[Genome] = []  # kept ones, the newest last
        self._said: list[str] = []
        self._descent: Descent | None = None
        self._evolution: Reduced | None = None
        self._generations = self._heard = 0
        self._trial: Genome | None = None  # is being compared with what was kept

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return CMA.default_population(min(dimensions, 16))

    @property
    def decisions(self) -> Sequence[str]:
        return self._said

    def _whole(self, option: str) -> int:
        return cast(int, self.options[option])

    # -- asking ---------------------------------------------------------------------------------

    def ask(self, count: int, batch: int) -> list[Ask]:
        if self._trial is not None:
            stage = self._stages[self._stage]
            origin = f"auto, {stage.kind} {stage.level.name}"
            pair = [Ask(self._kept, fresh=True, origin=f"{origin}: before")]
            return [*pair, Ask(self._trial, fresh=True, origin=origin)][:count]
        stage = self._stages[self._stage]
        origin = f"auto, {stage.kind} {stage.level.name}"
        if stage.kind == "descend":
            point = self._descent.point if self._descent else self._kept
            return [Ask(canonical(self.dims, point), slope=True, origin=origin)]
        evolution = self._evolution or self._evolving(stage)
        return [
            replace(ask, origin=origin if not ask.origin else f"{origin}: {ask.origin}")
            for ask in evolution.ask(count, batch)
        ]

    def recommend(self, count: int) -> list[Genome]:
        if self._best is None and not (self._found or self._descent or self._evolution):
            return []
        found = self._evolution.bettered() if self._evolution else []
        if self._descent is not None and EARLY * len(self._descent.points) > self._descent.steps:
            found = [canonical(self.dims, self._descent.mean)]  # as a rule it leads, once compared
        return list(dict.fromkeys([*found, self._kept, *self._found[::-1]]))[:count]

    # -- telling --------------------------------------------------------------------------------

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        if not seen:
            self._begin(told)
            return
        if self._trial is not None:
            self._judge(told)
            return
        stage = self._stages[self._stage]
        if stage.kind == "descend":
            if not any(each.lead for each in told):  # of a comparison that was asked twice
                self._descend(stage, told)
        elif not any(each.slope for each in told):  # a slope may come late
            self._evolve(stage, batch, seen, told)

    def _begin(self, told: Sequence[Told]) -> None:
        for each in told:
            if each.score is not None and (self._best is None or each.merit < self._best.merit):
                self._best, self._kept = each, each.genome
        if self._best is None:  # no known recipe to fall back on
            self.observed = type(self).observed

    def _descend(self, stage: _Stage, told: Sequence[Told]) -> None:
        if self._descent is None:
            self._descent = Descent(
                self._kept,
                stage.level.classes,
                self.problem.smooth,
                stage.steps,
                cast(float, self.options["rate"]),
            )
        for each in told:
            if each.slope is not None and not any(each.slope) and not self._descent.moved:
                self._next(f"{stage.kind} {stage.level.name}: left, no gene has a slope here")
                return
            if each.slope is not None:
                self._descent.move(each.slope)
            else:
                self._descent.back()
        if self._descent.done:
            self._try(canonical(self.dims, self._descent.mean))

    def _evolve(self, stage: _Stage, batch: int, seen: int, told: Sequence[Told]) -> None:
        if self._evolution is None:
            self._evolution = self._evolving(stage)
        self._evolution.tell(batch, seen, told)
        self._said += self._evolution.inner.decisions[self._heard :]
        self._heard = len(self._evolution.inner.decisions)
        self._generations += 1
        if self._generations == stage.steps and not stage.last:
            self._try(self._evolution.mean())

    def _evolving(self, stage: _Stage) -> Reduced:
        real = [not dim.size for dim in self.dims]
        held = [not (is_real or stage.choices) for is_real in real]
        wide, sigma = not any(self.problem.smooth), cast(float, self.options["sigma"])
        return Reduced(
            self.dims,
            stage.level.classes,
            held,
            self._kept,
            reach=1.0 if wide else REACH,
            sigma=2 * sigma if wide else sigma,
            seed=self.seed + self._stage,
            population=self.population,
        )

    def _try(self, genome: Genome) -> None:
        if genome == self._kept:
            self._next(f"{self._stages[self._stage].level.name}: nothing moved")
        else:
            self._trial = genome

    def _judge(self, told: Sequence[Told]) -> None:
        """The comparison arrived."""
        ours = next((each for each in told if each.genome == self._trial), None)
        if ours is None or (ours.lead is None and ours.score is not None and ours.slope):
            return  # of a batch that was asked before the comparison
        trial, self._trial = ours.genome, None
        stage = self._stages[self._stage]
        label = f"{stage.kind} {stage.level.name}"
        if ours.lead is None:
            self._next(f"{label}: given up, it could not be compared")
            return
        lead, error = ours.lead
        said = f"it leads by {lead:+.3f} ± {error:.3f} on fresh items"
        if lead > cast(float, self.options["evidence"]) * error:
            self._kept = trial
            self._found.append(trial)
            again = stage.kind == "descend" and self._stages[self._stage + 1].kind == "evolve"
            self._next(f"{label}: kept, {said}", again=again)
        else:
            self._found.insert(0, trial)  # the shortlist may see what fresh items did not
            self._next(f"{label}: not kept, {said}")

    def _next(self, said: str, again: bool = False) -> None:
        """On to the next stage, or the same once more; the last one never ends."""
        self._said.append(said)
        self._stage += not again
        self._descent, self._evolution = None, None
        self._generations = self._heard = 0


def _plan(problem: Problem, steps: int, patience: int) -> list[_Stage]:
    """The stages; the last never ends."""
    levels = problem.levels or (Level("all", tuple(range(len(problem.dims)))),)
    finest = levels[-1]
    if any(problem.smooth):
        coarse = _worthwhile(levels[1:], 8)  # one value for the whole model says too little
        stages = [_Stage("descend", level, max(1, steps // COARSE)) for level in coarse]
        stages.append(_Stage("descend", finest, steps))
        level = coarse[0] if coarse else finest
        return [*stages, _Stage("evolve", level, patience, last=True)]
    coarse = _worthwhile(levels, 3) if any(not dim.size for dim in problem.dims) else []
    few = [_Stage("evolve", level, patience, choices=False) for level in coarse]
    return [*few, _Stage("evolve", finest, patience, last=True)]


def _worthwhile(levels: Sequence[Level], times: int) -> list[Level]:
    """Those with so many times fewer values than the next one taken; others are as quickly found there."""
    taken: list[Level] = []
    size = len(set(levels[-1].classes)) if levels else 0
    for level in levels[-2::-1]:
        if times * (count := len(set(level.classes))) <= size:
            taken.insert(0, level)
            size = count
    return taken
