from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.methods import merge_tensors
from evomerge.methods.emr import masks, rescalers

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    case
    for case in json.loads((GOLDEN / "manifest.json").read_text())["cases"]
    if case["method"] == "emr"
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_masks_and_rescalers_restore_the_tasks(case: dict[str, Any]) -> None:
    tensors = {
        name.removeprefix(f"{case['case']}/"): tensor.float()
        for name, tensor in load_file(GOLDEN / case["file"]).items()
        if name.startswith(f"{case['case']}/")
    }
    names = [name.removeprefix("base/") for name in tensors if name.startswith("base/")]
    deltas, unified = {}, {}
    for name in names:
        base = tensors[f"base/{name}"]
        models = {f"m{i}": tensors[f"model-{i}/{name}"] for i in range(case["n_models"])}
        deltas[name] = torch.stack([model - base for model in models.values()])
        unified[name] = merge_tensors("emr", models, base=base) - base
    scale = rescalers(deltas, unified)
    tolerance = {"rtol": case["rtol"], "atol": case["atol"]}
    torch.testing.assert_close(scale, tensors["expected-rescalers"].double(), **tolerance)
    for name in names:
        agreeing = masks(deltas[name], unified[name])
        for i, mask in enumerate(agreeing):
            task = tensors[f"base/{name}"] + (scale[i] * mask * unified[name]).float()
            torch.testing.assert_close(task, tensors[f"expected-task-{i}/{name}"], **tolerance)


def test_a_model_that_agrees_nowhere_is_not_rescaled() -> None:
    deltas = {"w": torch.tensor([[1.0, 1.0], [-0.5, -0.5]])}
    assert rescalers(deltas, {"w": torch.tensor([1.0, 1.0])}).tolist() == [1, 1]
