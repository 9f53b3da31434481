"""A lead is of the score, paired; floors count in it beyond their own noise only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.judging.lead import lead
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Results
from evomerge.suite.suite import Suite

SKILL, GUARD = Objective("skill", "s", "acc"), Objective("guard", "g", "acc")


class Accuracy:
    def aggregate(self, metric: str, values: Sequence[float]) -> float:
        return sum(values) / len(values)


class Planted(Suite):
    """Two tasks of ``items`` questions each, one a source."""

    def __init__(self, items: int) -> None:
        self.spec: Any = SimpleNamespace()
        self.objectives = (SKILL, GUARD)
        self.scorers: Any = {"s": Accuracy(), "g": Accuracy()}
        self.__dict__["source_of"] = {
            name: {str(n): f"{name}{n}" for n in range(items)} for name in self.scorers
        }


def answers(**bits: Sequence[float]) -> Results:
    return {
        name: {
            "items": [str(n) for n in range(len(each))],
            "responses": [""] * len(each),
            "metrics": {"acc": list(each)},
            "tokens": 0,
        }
        for name, each in bits.items()
    }


def right(*wrong: int) -> list[float]:
    return [float(n not in wrong) for n in range(100)]


THEIRS = answers(s=right(0, 1, 2, 3, 4, 5), g=right(10, 11))
SUITE = Planted(100)


def test_without_floors_it_is_the_paired_difference() -> None:
    ours = answers(s=right(0, 1), g=right(20, 21, 22))
    found = lead(SUITE, {"skill": 1.0}, ours, THEIRS)
    assert found is not None
    # of 100 sources, four add .01 each
    spread = math.fsum(((0.01 if n < 4 else 0.0) - 0.04 / 100) ** 2 for n in range(100))
    assert found[0] == pytest.approx(0.04)
    assert found[1] == pytest.approx(math.sqrt(spread * 100 / 99))
    assert lead(SUITE, {"skill": 1.0}, ours, THEIRS, {"guard": 0.0}) == found


def test_a_floor_that_is_missed_within_its_noise_counts_nothing() -> None:
    ours = answers(s=right(0, 1), g=right(20, 21, 22))  # one more wrong, of five that differ
    free = lead(SUITE, {"skill": 1.0}, ours, THEIRS)
    assert lead(SUITE, {"skill": 1.0}, ours, THEIRS, {"guard": 3.0}) == free


def test_a_floor_that_is_clearly_missed_counts_at_its_price_beyond_its_error() -> None:
    ours = answers(s=right(0, 1), g=right(*range(10, 40)))
    found = lead(SUITE, {"skill": 1.0}, ours, THEIRS, {"guard": 3.0})
    alone = lead(SUITE, {"guard": 3.0}, ours, THEIRS)
    assert found is not None and alone is not None
    assert alone[0] == pytest.approx(-3 * 0.28)
    assert found[0] == pytest.approx(0.04 + alone[0] + alone[1])
    plain = lead(SUITE, {"skill": 1.0}, ours, THEIRS)
    assert plain is not None and found[1] == pytest.approx(math.hypot(plain[1], alone[1]))
    only = lead(SUITE, {"skill": 0.0}, ours, THEIRS, {"guard": 3.0})
    assert only == (pytest.approx(alone[0] + alone[1]), pytest.approx(alone[1]))
    back = lead(SUITE, {"skill": 1.0}, THEIRS, ours, {"guard": 3.0})
    assert back is not None and back[0] == pytest.approx(-found[0])
