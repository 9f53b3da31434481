from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.suite.objectives import (
    PRICE,
    Floor,
    Objective,
    Score,
    aimed,
    combine,
    derived,
    shares,
    steering,
    why_no_sum,
    with_derived,
    yardsticks,
)

ACC = Objective("acc", "task", "acc,none")
BITS = Objective("bits", "text", "bits_per_byte", maximize=False)
REFERENCES = {
    "base": {"acc": 0.30, "bits": 1.20},
    "chat": {"acc": 0.50, "bits": 1.10},
    "sea": {"acc": 0.40, "bits": 0.80},
}
BEST = {"acc": 0.50, "bits": 0.80}  # of any parent


def retention(values: dict[str, float], *objectives: Objective) -> Score:
    gains = yardsticks(objectives, REFERENCES)
    return combine(objectives, "retention", values, REFERENCES, gains)


def test_a_yardstick_is_what_the_best_parent_gains() -> None:
    assert yardsticks([ACC, BITS], REFERENCES) == pytest.approx({"acc": 0.2, "bits": 0.4})


def test_a_parent_that_gains_nothing_sets_no_yardstick() -> None:
    """Else a difference that is noise would blow the objective up."""
    flat = {"base": {"acc": 0.40}, "chat": {"acc": 0.41}, "sea": {"acc": 0.3}}
    assert yardsticks([ACC], flat) == pytest.approx({"acc": 0.25 * 0.41})
    assert yardsticks([ACC], {"base": {"acc": 0.0}, "chat": {"acc": 0.0}})["acc"] > 0


def test_a_scale_is_the_yardstick() -> None:
    scaled = Objective("acc", "task", "acc,none", scale=0.5)
    assert yardsticks([scaled], REFERENCES) == {"acc": 0.5}


def test_retention_is_0_at_the_base_and_1_at_a_parent_best_at_everything() -> None:
    assert retention(REFERENCES["base"], ACC, BITS).value == 0
    assert retention(BEST, ACC, BITS).value == pytest.approx(1)
    assert retention(REFERENCES["chat"], ACC, BITS).value == pytest.approx((1 + 0.25) / 2)


def test_weights_are_shares() -> None:
    heavy = Objective("acc", "task", "acc,none", weight=3)
    assert retention(REFERENCES["chat"], heavy, BITS).value == pytest.approx((3 * 1 + 0.25) / 4)
    free = Objective("acc", "task", "acc,none", weight=0)
    assert retention(REFERENCES["chat"], free, BITS).value == pytest.approx(0.25)


def test_mean_is_the_weighted_mean_of_values_with_minimised_ones_turned() -> None:
    heavy = Objective("acc", "task", "acc,none", weight=3)
    values = {"acc": 0.6, "bits": 0.9}
    assert combine([ACC], "mean", values, {}, {}).value == pytest.approx(0.6)
    found = combine([heavy, BITS], "mean", values, {}, {}).value
    assert found == pytest.approx((3 * 0.6 - 0.9) / 4)


@given(
    acc=st.floats(0, 1), bits=st.floats(0.1, 3), better=st.floats(1e-6, 0.1), how=st.sampled_from(["retention", "mean"])
)  # fmt: skip
def test_better_in_either_direction_scores_higher(
    acc: float, bits: float, better: float, how: str
) -> None:
    gains = yardsticks([ACC, BITS], REFERENCES)

    def score(acc: float, bits: float) -> float:
        return combine([ACC, BITS], how, {"acc": acc, "bits": bits}, REFERENCES, gains).value

    assert score(acc + better, bits) > score(acc, bits)
    assert score(acc, bits - better) > score(acc, bits)


@pytest.mark.parametrize(
    ("maximize", "share", "reference", "bound"),
    [
        (True, 0.8, 0.5, 0.4),
        (True, 0.8, -0.5, -0.6),
        (False, 1.2, 0.5, 0.6),
        (False, 1.2, -0.5, -0.4),
        (False, 0.8, 0.5, 0.4),
    ],
)
def test_a_share_is_of_the_size_of_what_a_model_scores(
    maximize: bool, share: float, reference: float, bound: float
) -> None:
    """At least 80 percent where more is better, at most 120 percent where less is."""
    floor = Floor(share=share, of="chat")
    objective = Objective("x", "task", "x", maximize, floor=floor)
    assert floor.bound(objective, {"chat": {"x": reference}}) == pytest.approx(bound)


def test_floors_are_constraints() -> None:
    floored = Objective("acc", "task", "acc,none", floor=Floor(share=0.9, of="chat"))
    kept = retention({"acc": 0.45, "bits": 1.3}, floored, BITS)
    missed = retention({"acc": 0.36, "bits": 0.1}, floored, BITS)
    worse = retention({"acc": 0.27, "bits": 0.1}, floored, BITS)
    assert kept.feasible and kept.violation == 0
    assert not missed.feasible and missed.violation == pytest.approx(0.2)
    assert missed.value > kept.value and missed.rank < kept.rank, "feasible first"
    assert worse.rank < missed.rank, "then the nearer"


def test_a_ceiling_is_the_floor_of_what_is_minimised() -> None:
    capped = Objective("bits", "text", "bits_per_byte", maximize=False, floor=Floor(value=1.0))
    assert retention({"bits": 0.99}, capped).feasible
    assert retention({"bits": 1.25}, capped).violation == pytest.approx(0.25)


def test_floors_of_several_objectives_add_up() -> None:
    acc = Objective("acc", "task", "acc,none", floor=Floor(value=0.5))
    bits = Objective("bits", "text", "bits_per_byte", maximize=False, floor=Floor(value=1.0))
    assert retention({"acc": 0.4, "bits": 1.1}, acc, bits).violation == pytest.approx(0.3)


def test_why_a_score_is_no_sum() -> None:
    floored = Objective("x", "task", "acc", floor=Floor(value=0.5))
    worst = Objective("worst", "", "", of=("acc", "bits"), how="worst")
    weightless = Objective("worst", "", "", weight=0, of=("acc", "bits"), how="worst")
    assert why_no_sum([ACC, BITS, weightless], "retention") is None
    assert why_no_sum([ACC, floored], "mean") == "there are floors (x)"
    assert why_no_sum([ACC, worst], "mean") == "worst is the worst of others"
    assert "worst of its objectives" in (why_no_sum([ACC], "worst") or "")


@pytest.mark.parametrize(
    "parts", [{}, {"share": 0.5}, {"of": "chat"}, {"value": 1.0, "share": 0.5, "of": "chat"}]
)
def test_a_floor_is_a_value_or_a_share(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a floor is a value, or a share"):
        Floor(**parts)


def test_scores_are_finite_whatever_the_references() -> None:
    zero = {name: {"acc": 0.0} for name in REFERENCES}
    gains = yardsticks([ACC], zero)
    assert math.isfinite(combine([ACC], "retention", {"acc": 0.5}, zero, gains).value)


def test_an_objective_made_of_others() -> None:
    values = {"th": 0.5, "id": 0.7, "bits": 1.2, "bits_th": 0.9}
    assert Objective("w", "", "", of=("th", "id"), how="worst").derive(values) == 0.5
    assert Objective("m", "", "", of=("th", "id"), how="mean").derive(values) == pytest.approx(0.6)
    bits = Objective("w", "", "", maximize=False, of=("bits", "bits_th"), how="worst")
    assert bits.derive(values) == 1.2  # minimised: the worst is the highest


def test_a_distance_from_a_target_is_minimised_and_has_a_yardstick_of_its_own() -> None:
    """Neither parent need be right: one forgets too much, the other too little."""
    kept = Objective("acc", "task", "acc,none", weight=0)
    near = Objective("near", "", "", maximize=False, of=("acc",), how="distance", target=0.45)
    references = {
        name: with_derived([kept, near], {"acc": acc})
        for name, acc in (("base", 0.9), ("over", 0.1), ("under", 0.7))
    }
    assert {name: values["near"] for name, values in references.items()} == pytest.approx(
        {"base": 0.45, "over": 0.35, "under": 0.25}
    )
    gains = yardsticks([kept, near], references)
    assert gains["near"] == pytest.approx(0.2), "what the nearer parent is nearer than the base"

    def merit(acc: float, **floor: Any) -> Score:
        objectives = [kept, replace(near, **floor)]
        values = with_derived(objectives, {"acc": acc})
        return combine(objectives, "retention", values, references, gains)

    assert merit(0.9).value == pytest.approx(0) and merit(0.7).value == pytest.approx(1)
    assert merit(0.45).value == pytest.approx(0.45 / 0.2), "the target itself is the best there is"
    assert merit(0.4).value == pytest.approx(merit(0.5).value), "above or below is the same"
    assert merit(0.5, floor=Floor(0.1)).feasible and not merit(0.3, floor=Floor(0.1)).feasible
    for acc, slope in ((0.6, -5.0), (0.3, 5.0)):
        found = shares([kept, near], "retention", {"acc": acc}, references, gains)
        assert found == pytest.approx({"acc": slope}, rel=1e-4), "towards the target"
    assert derived(near, {"acc": 0.6}, 2.0) == {"acc": 2.0}
    assert derived(near, {"acc": 0.3}, 2.0) == {"acc": -2.0}
    assert derived(near, {"acc": 0.45}) == {"acc": 0.0}
    assert why_no_sum([kept, near], "retention") == "near is a distance from a target"
    assert aimed([kept, near]) == {"acc"} and aimed([ACC, near]) == set()
    both = Objective("near", "", "", False, of=("a", "b"), how="distance", target=0.5)
    assert both.derive({"a": 0.4, "b": 0.8}) == pytest.approx(0.2), "their mean distance"


def test_worst_is_the_least_retention_of_what_counts() -> None:
    weightless = Objective("low", "task", "acc,none", weight=0)
    references = {
        "base": {"acc": 0.2, "bits": 1.0, "low": 0.5},
        "sea": {"acc": 0.4, "bits": 0.5, "low": 0.9},
    }
    objectives = [ACC, BITS, weightless]
    gains = yardsticks(objectives, references)
    values = {"acc": 0.3, "bits": 0.6, "low": 0.0}
    found = combine(objectives, "worst", values, references, gains)
    assert found.value == pytest.approx(0.5)  # acc; bits gains 0.8, low does not count


def test_a_slope_is_turned_back_where_a_floor_begins_to_be_missed() -> None:
    """And is that of the score alone where there is none, or it is held by far."""
    free = Objective("acc", "task", "acc,none", weight=0)
    floored = Objective("acc", "task", "acc,none", weight=0, floor=Floor(None, 0.9, "chat"))
    capped = Objective("bits", "text", "bits_per_byte", maximize=False, floor=Floor(1.0))
    gains = yardsticks([free, BITS], REFERENCES)

    def slope(acc: float, bits: float, *objectives: Objective) -> dict[str, float]:
        return shares(objectives, "retention", {"acc": acc, "bits": bits}, REFERENCES, gains)

    plain = slope(0.3, 0.9, free, BITS)
    assert plain == pytest.approx({"acc": 0.0, "bits": -1 / 0.4}, abs=1e-6)
    assert slope(0.8, 0.9, floored, BITS) == pytest.approx(plain, abs=1e-4)
    assert slope(0.2, 0.9, floored, BITS)["acc"] == pytest.approx(PRICE / 0.45, rel=1e-4)
    on_it = slope(0.45, 0.9, floored, BITS)["acc"]
    assert on_it == pytest.approx(PRICE / 2 / 0.45, rel=1e-3), "half of it on the floor"
    assert slope(0.3, 2.0, free, capped)["bits"] == pytest.approx(-1 / 0.4 - PRICE, rel=1e-4)
    assert [o.name for o in steering([floored, BITS])] == ["acc", "bits"]
    assert [o.name for o in steering([free, BITS])] == ["bits"]
    mean = Objective("both", "", "", weight=0, of=("acc",), how="mean", floor=Floor(0.5))
    assert [o.name for o in steering([free, BITS, mean])] == ["acc", "bits"]
