from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evomerge.methods import merge_states, merge_tensors

GENERATOR = torch.Generator().manual_seed(0)
BASE = torch.randn(8, 9, generator=GENERATOR)
MODELS = {f"m{i}": BASE + torch.randn(8, 9, generator=GENERATOR) for i in range(3)}
WEIGHT = [0.5, 1.0, 0.75]


def merge(method: str, **parameters: object) -> Tensor:
    return merge_tensors(method, MODELS, base=BASE, parameters=parameters)


def test_without_votes_it_is_the_merge_itself() -> None:
    plain = merge("task_arithmetic", weight=WEIGHT, **{"lambda": 0.5})
    assert torch.equal(merge("consensus_ta", weight=WEIGHT, k=0, **{"lambda": 0.5}), plain)
    elected = merge("ties", weight=WEIGHT, density=0.3, normalize=False)
    assert torch.equal(merge("consensus_ties", weight=WEIGHT, density=0.3, k=0), elected)


@pytest.mark.parametrize("method", ["consensus_ta", "consensus_ties"])
def test_what_no_three_models_need_is_dropped(method: str) -> None:
    whole = merge(method, k=0) - BASE
    deltas = torch.stack([model - BASE for model in MODELS.values()])
    needed = (deltas.abs() > 0.4 * (whole - deltas).abs()).sum(0)
    torch.testing.assert_close(merge(method, k=3) - BASE, whole * (needed >= 3))
    assert 0 < int((needed < 3).sum()) < BASE.numel()
    assert torch.equal(merge(method, k=4), BASE)


def test_a_model_of_weight_0_needs_nothing() -> None:
    assert torch.equal(merge("consensus_ta", weight=[1, 1, 0], k=3), BASE)


@pytest.mark.parametrize("method", ["consensus_ta", "consensus_ties"])
def test_densities_of_a_whole_model(method: str) -> None:
    parts = {name: {"x": t[:3], "y": t[3:]} for name, t in MODELS.items()}
    parameters = {"density": 0.25, "k": 1, "scope": "model"}
    whole = merge_states(method, parts, base={"x": BASE[:3], "y": BASE[3:]}, parameters=parameters)
    count = int(0.25 * BASE.numel()) + 1  # as the authors count
    one = merge(method, density=(count + 0.5) / BASE.numel(), k=1)
    assert torch.equal(torch.cat([whole["x"], whole["y"]]), one)


def test_of_equal_magnitudes_the_later_model_wins() -> None:
    models = {"a": torch.tensor([1.0, -2.0, 0.5]), "b": torch.tensor([-1.0, 1.0, 0.5])}
    out = merge_tensors("magmax", models, base=torch.zeros(3), parameters={"lambda": 0.5})
    assert out.tolist() == [-0.5, -1.0, 0.25]
