"""What the driver does for an evaluation does not grow with the run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint import ModelRef
from evomerge.evolution.core import Plan, Search
from evomerge.evolution.history import Evaluation, History, Phase
from evomerge.optimizers import Problem, make
from evomerge.pool import WorkerSpec
from evomerge.recipe import Body, Recipe
from evomerge.record.events import EvaluationLine
from evomerge.run import loop
from evomerge.run.loop import Listener
from evomerge.space import SearchSpace, SpaceSpec
from evomerge.suite.objectives import Objective, combine, yardsticks
from tests.benchmarks.scale.made_up import MadeUp

WANTED = (Objective("skill", "task", "acc"),)
EVALUATIONS = 20_000


def calls_of(work: Callable[[], Any]) -> int:
    """Python calls that ``work`` makes: what time it takes, on any machine."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_twenty_thousand_evaluations_cost_the_same_from_first_to_last() -> None:
    models = {"chat": ModelRef("c"), "sea": ModelRef("s")}
    template = Recipe(ModelRef("b"), models, Body(), "float32")
    space = SearchSpace(SpaceSpec(("task_arithmetic",)), template, 2)
    search = Search(
        space,
        make("random", Problem(space.dims, ("skill",)), seed=0, population=50),
        Plan(EVALUATIONS, 50, lag=3, items=100 * EVALUATIONS, cost=lambda progress: 90),
        History(lambda v, r, g: combine(WANTED, "mean", v, r, g), lambda r: yardsticks(WANTED, r)),
        objectives=WANTED,
    )
    history, calls = search.history, list[int]()

    def step() -> None:
        """As the loop does: open what may be opened, take in a batch, look at what a display shows."""
        while (batch := search.propose()) is not None and batch.phase.searched:
            history.open(batch)
        number = min(b.number for b in history.batches[-4:] if history.awaited(b.number))
        for candidate in history.awaited(number):
            skill = sum(candidate.genome or (0.5,)) % 1
            history.observe(
                Evaluation(number, candidate.id, {"skill": skill}, errors={"skill": 0.1}, items=9)
            )
            assert history.spent.evaluations and history.phase and not history.done

    while history.arrived < EVALUATIONS:
        calls.append(calls_of(step))
        assert history.best is None or history.best.score
    assert history.phase == Phase.SEARCH and history.spent.items == 9 * EVALUATIONS
    early, late = sum(calls[10:60]), sum(calls[-60:-10])
    assert late < 1.1 * early, f"calls for fifty batches: {early} early, {late} late"


class Counting(Listener):
    """Calls of all that a driver does between evaluations, those of its made-up workers left out."""

    def __init__(self, folder: Path) -> None:
        self.calls = [0]
        self._answers = folder / "answers.json"

    def make(self, spec: WorkerSpec) -> MadeUp:
        return MadeUp(spec, self._answers)

    def seen(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" and not frame.f_code.co_filename.endswith("made_up.py"):
            self.calls[-1] += 1

    def observed(self, line: EvaluationLine, completed: bool) -> None:
        self.calls.append(0)


@pytest.mark.parametrize("optimizer", ["cma", "map_elites"])
def test_a_whole_driver_does_as_much_for_the_last_evaluations_as_for_early_ones(
    optimizer: str, run_folder: Callable[..., Path], small: dict[str, Any], tmp_path: Path
) -> None:
    fitness = {**small["fitness"], "items": {**small["fitness"]["items"], "candidate": 4}}
    changes = {
        "fitness": fitness,
        "optimizer": {"name": optimizer, "population": 10},
        "budget": {"evaluations": 450},
    }
    counting = Counting(tmp_path)
    sys.setprofile(counting.seen)
    try:
        loop.search(run_folder(**{**small, **changes}), counting.make, listener=counting)
    finally:
        sys.setprofile(None)
    early, late = sum(counting.calls[80:200]), sum(counting.calls[310:430])
    assert late < 1.15 * early, f"calls for 120 evaluations: {early} early, {late} late"
