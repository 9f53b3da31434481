"""What methods are at their declared defaults."""

from __future__ import annotations

import pytest
import torch

from evomerge import methods
from evomerge.methods import merge_tensors


@pytest.mark.parametrize("count", [2, 3])
def test_what_a_method_is_by_default_is_said(count: int) -> None:
    """A known recipe that another method is, too, would be scored twice."""
    noise = torch.Generator().manual_seed(0)
    base = torch.randn(48, 40, generator=noise) / 10
    models = {}
    for number in range(count):
        delta = torch.randn(48, 40, generator=noise) / 50
        models[f"m{number}"] = base + delta * (torch.rand(48, 40, generator=noise) < 0.7)
    average = merge_tensors("linear", models)
    alike = set()
    for name in methods.names():
        method = methods.get(name)
        if method.required or method.of_adapters or method.arity_problem(count, True):
            continue
        own = None if method.base == "none" else base
        merged = merge_tensors(name, models, base=own, role="mlp")
        if torch.allclose(merged, average, rtol=0, atol=1e-6):
            alike.add(name)
    assert alike == {n for n in methods.names() if methods.get(n).by_default == "uniform"}
