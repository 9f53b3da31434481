"""Experts that are stored packed are merged one by one, as those that are stored apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge import merge_tensors
from evomerge.checkpoint import ModelRef
from evomerge.merging import Materializer, open_parents
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.zoo import tiny_members


@pytest.mark.parametrize("method", ["ties", "widen", "dare_ties", "task_arithmetic"])
def test_each_expert_by_itself(tmp_path: Path, method: str) -> None:
    folders = tiny_members(tmp_path, "gpt_oss", "GptOssForCausalLM")
    refs = {name: ModelRef(str(folder)) for name, folder in folders.items()}
    models = {name: refs[name] for name in ("a", "b")}
    recipe = Recipe(refs["base"], models, Body((group(method, ("a", "b")),)), dtype="float32")
    parents = open_parents(recipe)
    found: dict[str, torch.Tensor] = {}
    Materializer(parents).each(recipe, lambda name, tensor: found.update({name: tensor.clone()}))
    values = {name: value for name, value in recipe.groups[0].values.items() if value is not None}
    packed = [name for name in found if "experts.gate_up_proj" in name]
    assert len(packed) == 2 * parents.frame.layers, "matrices and biases"
    for name in packed:
        for number, expert in enumerate(found[name]):
            expected = merge_tensors(
                method,
                {model: parents.tensor(model, name)[number] for model in models},
                base=parents.tensor("base", name)[number],
                parameters=values,
                name=f"{name}[{number}]",
            )
            assert torch.equal(expert, expected), (name, number)
