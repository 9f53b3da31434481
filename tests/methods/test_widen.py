from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.methods import merge_tensors
from evomerge.methods.widen import column_ranks

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    case
    for case in json.loads((GOLDEN / "manifest.json").read_text())["cases"]
    if "expected-magnitude-rank" in case["outputs"]
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['case']}-{case['tags'][0]}")
def test_ranks_are_those_of_the_authors(case: dict[str, Any]) -> None:
    found = load_file(GOLDEN / case["file"])
    base = found[f"{case['case']}/base"].float()
    models = [found[f"{case['case']}/model-{i}"].float() for i in range(case["n_models"])]
    by_row = case["parameters"]["role"] == "embedding"
    ranks = torch.stack([column_ranks(model, base, by_row) for model in models], dim=1)
    for name, rank in zip(("magnitude", "direction"), ranks, strict=True):
        expected = found[f"{case['case']}/expected-{name}-rank"]
        torch.testing.assert_close(rank / rank.shape[1], expected.reshape(rank.shape))


def test_the_embedding_has_tokens_for_columns() -> None:
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    models = {"a": base + base.sin(), "b": base + base.cos()}
    rows = merge_tensors("widen", models, base=base, name="model.embed_tokens.weight")
    columns = merge_tensors("widen", {m: t.T for m, t in models.items()}, base=base.T)
    torch.testing.assert_close(rows, columns.T)


def test_a_rank_that_equals_the_threshold_is_not_above_it() -> None:
    # three columns: ranks 0, 1, 2 and their mean 1, which only the last exceeds
    base = torch.eye(3)
    step = torch.tensor([1.0, 2.0, 3.0])
    models = {"a": base + torch.diag(step), "b": base + torch.diag(step)}
    out = merge_tensors(
        "widen", models, base=base, parameters={"score_calibration_value": 0.3}
    ).diagonal()
    # equal models: softmax 1/2 each below the threshold. Directions do not change, so their ranks
    # are 0, 1, 2 as well
    torch.testing.assert_close(out, 1 + step * torch.tensor([1.0, 1.0, 0.6]))
