from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.methods import FactStore, Inputs, get, merge_states, merge_tensors
from evomerge.methods.kernel.competition import _exp, _tanh

SHAPES = {"a": (20, 30), "b": (7,), "c": (6, 3, 5), "empty": (0, 4)}
VISION = {"rivals": "normalized", "clamp": 0.01, "weight": [1.2, 1.1, 1.0]}


def model(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def joined(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in state.values()])


BASE = model(0)
MODELS = {f"m{i}": {name: BASE[name] + t / 2 for name, t in model(i).items()} for i in (1, 2, 3)}


@pytest.mark.parametrize("parameters", [{"ratio": 0.2}, {"ratio": 0.4567, **VISION}])
def test_a_whole_model_is_one_vector(parameters: dict[str, Any]) -> None:
    whole = merge_states("pcb", MODELS, base=BASE, parameters={**parameters, "scope": "model"})
    flat = {name: joined(state) for name, state in MODELS.items()}
    one = merge_tensors("pcb", flat, base=joined(BASE), parameters=parameters)
    assert torch.equal(joined(whole), one)
    assert not torch.equal(joined(merge_states("pcb", MODELS, base=BASE)), one)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.123456, 1.0])
def test_kept_quantiles_change_nothing(ratio: float) -> None:
    method, store = get("pcb"), FactStore(1 << 20)
    models = {name: state["a"] for name, state in MODELS.items()}
    inputs = Inputs(models, method.check({"ratio": ratio}, [*MODELS]), BASE["a"])
    plain, kept = method.apply(inputs), replace(inputs, facts=store)
    assert all(torch.equal(method.apply(kept), plain) for _ in range(2))


def test_a_model_that_equals_the_base_does_not_compete() -> None:
    idle = {"m1": MODELS["m1"]["a"], "idle": BASE["a"]}
    out = merge_tensors("pcb", idle, base=BASE["a"], parameters={"ratio": 0.3})
    changed = out != BASE["a"]
    assert changed.float().mean() == pytest.approx(0.3, abs=0.01)
    delta = MODELS["m1"]["a"] - BASE["a"]
    kept = changed & (delta.abs() < delta.abs().max())  # the largest is clamped
    torch.testing.assert_close((out - BASE["a"])[kept], delta[kept])


def test_exp_and_tanh_as_written_out() -> None:
    s = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(_exp(s).double(), (s.double() - 1).exp(), rtol=2e-7, atol=0)
    x = torch.cat([torch.logspace(-20, 0, 101), torch.linspace(1, 9, 1001)])
    for each in (x, -x):
        found = _tanh(each).double()
        torch.testing.assert_close(found, each.double().tanh(), rtol=1e-6, atol=0)
