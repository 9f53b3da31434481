"""Who is on the front, from planted answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from evomerge.checkpoint import ModelRef
from evomerge.evolution.candidate import Candidate
from evomerge.evolution.history import Batch, Evaluation, History, Phase
from evomerge.judging.evidence import Bootstrap
from evomerge.judging.front import confirm
from evomerge.judging.shortlist import judge
from evomerge.recipe import Body, Recipe, group
from evomerge.suite.objectives import Floor, Objective, combine, yardsticks
from evomerge.suite.scorer import Results
from evomerge.suite.suite import Suite

N = 40
IDS = tuple(map(str, range(N)))
ITEMS = {name: IDS for name in "abc"}
OBJECTIVES = (Objective("one", "a", "acc"), Objective("two", "b", "acc"))
GUARD = Objective("guard", "c", "acc", weight=0, floor=Floor(0.5))


class Accuracy:
    def aggregate(self, metric: str, values: Sequence[float]) -> float:
        return sum(values) / len(values)


class Planted(Suite):
    def __init__(self, front: int = 0) -> None:
        self.spec: Any = SimpleNamespace(
            combination="mean", gates=False, front=front, confidence=0.9
        )
        self.objectives = (*OBJECTIVES, GUARD)
        self.scorers: Any = {name: Accuracy() for name in "abc"}
        self.__dict__["source_of"] = {name: {id: id for id in IDS} for name in "abc"}
        self.splits: Any = {"select": ITEMS}


def answers(one: int, two: int, guard: int = N) -> Results:
    """Of a model with this many of ``N`` right in each objective."""
    return {
        name: {
            "items": list(IDS),
            "responses": [""] * N,
            "metrics": {"acc": [float(n < right) for n in range(N)]},
            "tokens": 0,
        }
        for name, right in (("a", one), ("b", two), ("c", guard))
    }


def confirmed(*models: tuple[int, int]) -> dict[int, float]:
    bootstrap = Bootstrap.of(Planted(), ITEMS, 0)
    known = {id: answers(*right) for id, right in enumerate(models)}
    members = confirm(bootstrap, OBJECTIVES, known, list(known))
    return {member.candidate: member.probability for member in members}


def test_twins_do_not_beat_each_other_also_where_all_is_right_or_wrong() -> None:
    for twin in ((N, N), (0, N), (20, N), (0, 0), (20, 30)):
        assert confirmed(twin, twin, twin) == {0: 1.0, 1: 1.0, 2: 1.0}


def test_a_tie_at_the_top_saves_nobody_who_is_beaten_elsewhere() -> None:
    assert confirmed((N, 35), (N, 10)) == {0: 1.0}


def test_who_gains_what_another_loses_stays() -> None:
    assert set(confirmed((35, 10), (10, 35), (8, 8))) == {0, 1}


def judged(models: Mapping[str, tuple[int, int, int]], front: int) -> set[str]:
    """Labels of the confirmed front of a shortlist; the first two models are base and parent."""
    suite = Planted(front)
    history = History(
        lambda v, r, g: combine(suite.objectives, "mean", v, r, g),
        lambda r: yardsticks(suite.objectives, r),
    )
    recipe = Recipe(
        None, {"chat": ModelRef("c")}, Body((group("linear", ("chat",)),)), "float32", 0, "chat"
    )
    members = [Candidate(id, label, recipe) for id, label in enumerate(models)]
    batches = [
        (Phase.REFERENCES, members[:2]),
        (Phase.START, members[2:3]),
        (Phase.SELECT, members),
    ]
    for number, (phase, candidates) in enumerate(batches):
        history.open(Batch(number, phase, tuple(candidates)))
        for c in candidates:
            values = {
                o.name: n / N for o, n in zip(suite.objectives, models[c.origin], strict=True)
            }
            history.observe(Evaluation(number, c.id, values, None))
    labels = list(models)
    verdict = judge(history, suite, "unraced", ITEMS, lambda id: answers(*models[labels[id]]))
    return {labels[member.candidate] for member in verdict.front}


def test_who_misses_a_floor_keeps_nobody_off_the_front() -> None:
    models = {"base": (5, 5, N), "chat": (39, 39, 3), "uniform": (35, 10, N), "other": (10, 35, N)}
    assert judged({**models, "reckless": (38, 38, 3)}, 9) == {"uniform", "other"}
    assert judged({**models, "sound": (38, 38, N)}, 9) == {"sound"}


def test_of_more_than_are_wanted_the_ends_stay() -> None:
    models = {"base": (1, 1, N), "chat": (2, 2, N), "low": (2, 38, N), "high": (38, 2, N)}
    models |= {f"middle {n}": (20 + n, 24 - n, N) for n in range(5)}
    kept = judged(models, 3)
    assert len(kept) == 3 and {"low", "high"} < kept
