"""A slider: preferences to confirmed recipes, written, read back and refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from evomerge import config
from evomerge.errors import InputError
from evomerge.inference.intervals import Interval
from evomerge.report.slider import FILE, Slider, Stop, grid

GAINS = {"chatty": (1.0, 0.1), "even": (0.8, 0.7), "native": (0.2, 0.9)}


@pytest.fixture
def slider(tmp_path: Path) -> Slider:
    values = {"chat": Interval(0.9, 0.8, 0.95), "sea": Interval.unknown(0.5, "too few sources")}
    stops = (
        Stop(tmp_path / f"{name}.yaml", name, 0.75, gains, values) for name, gains in GAINS.items()
    )
    return Slider(("chat", "sea"), {"chat": 0.4, "sea": 0.3}, tuple(stops))


def test_a_preference_chooses_the_largest_weighted_gain(slider: Slider) -> None:
    chosen = {
        w: slider.choose({"chat": w, "sea": 1 - w}).recipe.stem for w in (1, 0.9, 0.5, 0.1, 0)
    }
    assert chosen == {1: "chatty", 0.9: "chatty", 0.5: "even", 0.1: "native", 0: "native"}
    assert slider.choose({"chat": 5}) == slider.choose({"chat": 1.0, "sea": 0.0})
    assert slider.choose({"sea": 0.3, "chat": 0.3}).recipe.stem == "even", (
        "weights need not sum to 1"
    )


def test_it_is_read_back_as_it_was_written(slider: Slider, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text(slider.to_yaml())
    assert Slider.load(path) == slider
    plain = config.read(path).plain
    assert len(plain["positions"]) == 11
    for position in plain["positions"]:
        assert sum(position["weights"].values()) == pytest.approx(1)
        assert position["recipe"] == slider.choose(position["weights"]).recipe.name
    assert plain["recipes"]["even.yaml"]["values"]["chat"] == {
        "value": 0.9,
        "low": 0.8,
        "high": 0.95,
    }


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"chta": 1}, "'chta' is no objective of this slider (did you mean 'chat'?)"),
        ({"chat": 0}, "weights: expected numbers of 0 or more that are not all 0"),
        ({"chat": -1, "sea": 2}, "weights: expected numbers of 0 or more"),
        ({"chat": math.nan}, "weights: expected numbers of 0 or more"),
        ({}, "weights: expected numbers of 0 or more"),
    ],
)
def test_what_is_no_preference_is_refused(
    slider: Slider, weights: dict[str, float], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        slider.choose(weights)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("found", "by"),
    [
        ("slider: 1", "slider: 2"),
        ("even.yaml:", "../even.yaml:"),
        ("gains: [0.8, 0.7]", "gains: [0.8]"),
        ("low: 0.8", "low: 0.99"),
        ("recipes:", "stops:"),
    ],
)
def test_what_is_no_slider_is_refused(slider: Slider, tmp_path: Path, found: str, by: str) -> None:
    path, text = tmp_path / FILE, slider.to_yaml()
    assert found in text
    path.write_text(text.replace(found, by))
    with pytest.raises(InputError, match="is no slider as"):
        Slider.load(path)


@pytest.mark.parametrize("objectives", range(1, 12))
def test_the_grid_is_small_and_holds_the_corners(objectives: int) -> None:
    found = list(grid(objectives))
    assert len(set(found)) == len(found) <= 66
    assert all(sum(weights) == pytest.approx(1) for weights in found)
    corners = [tuple(float(n == at) for n in range(objectives)) for at in range(objectives)]
    assert set(corners) <= set(found)
