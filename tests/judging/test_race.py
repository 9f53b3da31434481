from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.judging.race import Race, e_value
from evomerge.suite.objectives import Floor, Objective


@given(wins=st.integers(0, 200), losses=st.integers(0, 200), ties=st.integers(0, 50))
def test_both_directions_together_are_the_test_on_discordant_pairs(
    wins: int, losses: int, ties: int
) -> None:
    pairs = [1.0] * wins + [-1.0] * losses + [0.0] * ties
    both = (e_value(pairs) + e_value([-x for x in pairs])) / 2
    count = wins + losses
    log = count * math.log(2) - math.log(math.pi) - math.lgamma(count + 1)
    log += math.lgamma(wins + 0.5) + math.lgamma(losses + 0.5)
    assert math.log(both) == pytest.approx(log, abs=1e-9)


def test_a_lead_is_found_and_nothing_is_no_evidence() -> None:
    assert e_value([]) == e_value([0.0] * 50) == pytest.approx(1)
    assert e_value([1.0] * 8) > 20 > e_value([1.0] * 5)
    assert e_value([0.1] * 200) > 20
    assert e_value([-1.0] * 100) < 0.2
    assert e_value([1.0] * 5000) < math.inf


def test_the_best_is_dropped_no_more_often_than_said_however_often_one_looks() -> None:
    """Equal merges, looked at after every item: the chance to ever cross 1/alpha is at most alpha."""
    alpha, runs, items = 0.05, 400, 200
    draw = np.random.default_rng(0)
    signs = draw.choice([-1.0, 0.0, 1.0], (runs, items), p=[0.1, 0.8, 0.1])
    sizes = draw.choice([0.2, 1.0], (runs, items))
    looks = range(5, items + 1, 5)
    crossed = [any(e_value(x[:n]) >= 1 / alpha for n in looks) for x in signs * sizes]
    assert np.mean(crossed) <= alpha
    better = draw.choice([-1.0, 0.0, 1.0], (50, items), p=[0.05, 0.75, 0.2])
    assert np.mean([e_value(x) >= 1 / alpha for x in better]) > 0.8, "and it has power"


class Mean:
    def aggregate(self, metric: str, values: list[float]) -> float:
        return sum(values) / len(values)


def suite_of(*objectives: Objective, combination: str = "retention") -> Any:
    """Two tasks of parallel items: item n of each is made from source n."""
    items = {"th": ["t0", "t1", "t2", "t3"], "id": ["i0", "i1"]}
    return SimpleNamespace(
        objectives=objectives,
        measured=[o for o in objectives if not o.of],
        spec=SimpleNamespace(combination=combination, front=0),
        splits={"select": items},
        source_of={name: {id: id[1] for id in ids} for name, ids in items.items()},
        scorers={"th": Mean(), "id": Mean()},
    )


def answers(th: str, id: str) -> Any:
    def one(name: str, bits: str) -> dict[str, Any]:
        items = [f"{name[0]}{n}" for n in range(len(bits))]
        return {"items": items, "metrics": {"acc": [float(bit) for bit in bits]}}

    return {"th": one("th", th), "id": one("id", id)}


GAINS = {"th": 0.5, "id": 0.25, "both": 0.5}
TH, ID = Objective("th", "th", "acc"), Objective("id", "id", "acc", maximize=False, weight=2.0)


def test_siblings_are_one_observation_and_units_are_those_of_the_score() -> None:
    suite = suite_of(TH, ID)
    race = Race.of(suite, GAINS, [answers("0101", "01")])
    assert isinstance(race, Race)
    # one of four th items: 1/3 * 1/0.5 / 4 = 1/6; one of two id items: -(2/3) / 0.25 / 2 = -4/3
    assert race.units["id"] / race.units["th"] == pytest.approx(-8)
    leads = race.leads(answers("1100", "10"), answers("0000", "00"))
    assert leads == pytest.approx([(1 - 8) / 9, 1 / 9, 0, 0])
    part = race.leads(answers("11", "1"), answers("00", "0"))
    assert part == pytest.approx(leads[:2]), (
        "a part of the items weighs what it weighs in the whole"
    )


@pytest.mark.parametrize(
    ("objectives", "combination", "known", "why"),
    [
        ((TH, ID), "worst", answers("0101", "01"), "the worst of its objectives"),
        ((TH, replace(ID, floor=Floor(0.1))), "mean", answers("0101", "01"), "floors (id)"),
        ((TH, Objective("both", "", "", of=("th",), how="worst")), "mean", answers("0101", "01"), "both is"),
        ((ID, TH), "mean", answers("0103", "01"), "th (acc) is no mean of numbers from 0 to 1"),
    ],
)  # fmt: skip
def test_what_is_no_sum_of_bounded_means_is_not_raced(
    objectives: tuple[Objective, ...], combination: str, known: Any, why: str
) -> None:
    said = Race.of(suite_of(*objectives, combination=combination), GAINS, [known])
    assert isinstance(said, str) and why in said


def test_a_mean_of_objectives_is_a_sum() -> None:
    both = Objective("both", "", "", of=("th", "id"), how="mean")
    parts = [Objective(n, n, "acc", weight=0.0) for n in ("th", "id")]
    race = Race.of(suite_of(*parts, both), GAINS, [answers("0101", "01")])
    assert isinstance(race, Race) and race.units["id"] == pytest.approx(2 * race.units["th"])
