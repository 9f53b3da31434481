from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evomerge.methods import merge_states, merge_tensors


def state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"a": 1.0, "b": 0.1}
    return {k: torch.randn(8, 6, generator=generator) * size for k, size in sizes.items()}


BASE = {"a": torch.zeros(8, 6), "b": torch.zeros(8, 6)}


def test_one_threshold_and_one_magnitude_for_the_whole_model() -> None:
    one = state(0)
    merged = merge_states("compeft", {"one": one}, base=BASE, parameters={"density": 0.25})
    whole = torch.cat([one["a"].flatten(), one["b"].flatten()])
    kept = torch.cat([merged["a"].flatten(), merged["b"].flatten()])
    assert kept.count_nonzero() == int(0.25 * 96) + 1
    assert merged["b"].count_nonzero() < merged["a"].count_nonzero()
    largest = whole.abs().topk(25).indices
    torch.testing.assert_close(kept[largest], whole[largest].sign() * whole.std())


def test_models_add_up() -> None:
    models = {"one": state(0), "two": state(1)}
    parts = {
        name: merge_states(
            "compeft", {name: models[name]}, base=BASE, parameters={"weight": weight}
        )
        for name, weight in (("one", 0.5), ("two", 3))
    }
    both = merge_states("compeft", models, base=BASE, parameters={"weight": [0.5, 3]})
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, parts["one"][name] + parts["two"][name])


@pytest.mark.parametrize(
    ("magnitude", "expected"),
    [
        ("kept", [3.0, -2.0, 0.0, 0.0]),
        ("mean", [2.5, -2.5, 0.0, 0.0]),
        ("signed_mean", [0.5, -0.5, 0.0, 0.0]),
    ],
)
def test_magnitudes(magnitude: str, expected: list[float]) -> None:
    models = {"one": torch.tensor([3.0, -2.0, 1.0, 0.5])}
    options = {"magnitude": magnitude, "density": 0.25}
    merged = merge_tensors("compeft", models, base=torch.zeros(4), parameters=options)
    torch.testing.assert_close(merged, torch.tensor(expected))


def test_density_1_keeps_everything() -> None:
    models = {"one": state(0)}
    options = {"magnitude": "kept", "density": 1}
    merged = merge_states("compeft", models, base=BASE, parameters=options)
    for name, tensor in models["one"].items():
        torch.testing.assert_close(merged[name], tensor)
