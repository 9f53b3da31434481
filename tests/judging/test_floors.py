"""How likely floors hold, from planted answers, and what a shortlist makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evomerge.evolution.archive import Elite
from evomerge.evolution.floors import chance, safe
from evomerge.judging.evidence import Bootstrap
from evomerge.judging.floors import margins, probability
from evomerge.suite.objectives import Floor, Objective, Score
from evomerge.suite.scorer import Results
from evomerge.suite.suite import Suite

OF_CHAT = Objective("guard", "a", "acc", floor=Floor(None, 0.98, "chat"))
NUMBER = Objective("guard", "a", "acc", floor=Floor(0.9))
CEILING = Objective("guard", "a", "acc", maximize=False, floor=Floor(None, 1.05, "chat"))


class Accuracy:
    def aggregate(self, metric: str, values: Sequence[float]) -> float:
        return sum(values) / len(values)


class Planted(Suite):
    def __init__(self, objective: Objective, items: int) -> None:
        self.spec: Any = SimpleNamespace()
        self.objectives = (objective,)
        self.scorers: Any = {"a": Accuracy()}
        ids = [str(n) for n in range(items)]
        self.__dict__["source_of"] = {"a": {id: id for id in ids}}
        self.__dict__["splits"] = {"select": {"a": ids}}


def answers(bits: Sequence[float]) -> Results:
    ids = [str(n) for n in range(len(bits))]
    metrics = {"acc": list(bits)}
    return {"a": {"items": ids, "responses": [""] * len(bits), "metrics": metrics, "tokens": 0}}


def likely(objective: Objective, ours: Sequence[float], chat: Sequence[float]) -> float:
    suite = Planted(objective, len(ours))
    bootstrap = Bootstrap.of(suite, suite.splits["select"], 0)
    return probability(margins(bootstrap, answers(ours), {"chat": answers(chat)}))


def some(right: int, items: int) -> list[float]:
    return [float(n < right) for n in range(items)]


def test_who_answers_like_the_model_holds_its_share_but_for_what_few_sources_leave_open() -> None:
    for right in (0, 30, 50):
        assert likely(OF_CHAT, some(right, 50), some(right, 50)) == pytest.approx(50 / 51)
    assert likely(OF_CHAT, some(6, 6), some(6, 6)) == pytest.approx(6 / 7)


def test_a_floor_that_is_just_held_is_held_half_of_the_time() -> None:
    assert 0.35 < likely(OF_CHAT, some(98, 100), some(100, 100)) < 0.75
    assert likely(OF_CHAT, some(90, 100), some(100, 100)) < 0.02
    assert likely(OF_CHAT, some(100, 100), some(92, 100)) > 0.98


def test_of_a_number_too_what_is_unanimous_is_not_certain() -> None:
    assert 0.75 < likely(NUMBER, some(20, 20), some(0, 20)) < 0.95
    assert likely(NUMBER, some(200, 200), some(0, 200)) > 0.99


def test_a_ceiling_is_held_from_below() -> None:
    assert likely(CEILING, some(50, 100), some(70, 100)) > 0.98
    assert likely(CEILING, some(80, 100), some(60, 100)) < 0.02


def test_a_merge_that_truly_misses_its_floor_is_seldom_said_to_hold_it() -> None:
    """Truly on the floor: 90 percent are said of one in ten, and half of all are on either side."""
    rng, said = np.random.default_rng(0), []
    for _ in range(150):
        chat = rng.random(80) < 0.9
        ours = np.where(rng.random(80) < 0.6, chat, rng.random(80) < 0.855)  # 0.882 in all
        said.append(likely(OF_CHAT, ours.astype(float).tolist(), chat.astype(float).tolist()))
    assert 0.02 < np.mean(np.array(said) >= 0.9) < 0.2
    assert 0.35 < np.mean(np.array(said) >= 0.5) < 0.65


def test_search_estimates_say_who_is_worth_a_place() -> None:
    references = {"chat": {"guard": 1.0}}

    def likely(value: float, error: float | None) -> float:
        return chance([OF_CHAT], {"guard": value}, {"guard": error}, references)

    assert likely(0.98, 0.02) == pytest.approx(0.5)
    assert likely(1.0, 0.02) == pytest.approx(0.8413, abs=1e-4)
    assert likely(0.99, 0.0) == 1.0 and likely(0.97, None) == 0.0
    elites = [Elite(n, 2, Score(1 - 0.1 * n), {"guard": 0.97 + 0.01 * n}) for n in range(7)]
    chosen = safe(elites, lambda elite: likely(elite.values["guard"], 0.01))
    assert [elite.candidate for elite in chosen] == [2, 3, 3, 4], "84, 98 and 98, 99.9 percent"
