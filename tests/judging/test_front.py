"""Who is on the front, from planted answers."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from evomerge.judging.evidence import Bootstrap
from evomerge.judging.front import confirm
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Results
from evomerge.suite.suite import Suite

N = 40
OBJECTIVES = (Objective("one", "a", "acc"), Objective("two", "b", "acc"))


class Accuracy:
    def aggregate(self, metric: str, values: Sequence[float]) -> float:
        return sum(values) / len(values)


class Planted(Suite):
    def __init__(self) -> None:
        self.spec: Any = SimpleNamespace(combination="mean")
        self.objectives = OBJECTIVES
        self.scorers: Any = {"a": Accuracy(), "b": Accuracy()}
        self.__dict__["source_of"] = {name: {str(n): str(n) for n in range(N)} for name in "ab"}


def answers(one: int, two: int) -> Results:
    """Of a model with this many of ``N`` right in each objective."""
    return {
        name: {
            "items": [str(n) for n in range(N)],
            "responses": [""] * N,
            "metrics": {"acc": [float(n < right) for n in range(N)]},
            "tokens": 0,
        }
        for name, right in (("a", one), ("b", two))
    }


def confirmed(*models: tuple[int, int]) -> dict[int, float]:
    suite = Planted()
    bootstrap = Bootstrap.of(suite, {name: tuple(map(str, range(N))) for name in "ab"}, 0)
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
