"""Starts of presets, and the mergekit files of the papers that they are after: the same tensors."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from published import FILES, PRESETS
from safetensors.torch import load_file

from evomerge import config, merge
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.interop import load_recipe
from evomerge.recipe import Body, Recipe
from evomerge.space import SearchSpace, parse_space

SPACES = Path(__file__).parents[2] / "search_spaces"


def start_of(name: str, family: dict[str, Path]) -> Recipe:
    """What the preset of a paper starts with, for these models."""
    preset, roles, label = PRESETS[name]
    models = {model: ModelRef(str(family[model])) for model in ("chat", "sea")}
    problems = config.Problems()
    bound = {role: (model,) for role, model in roles.items()}
    spec = parse_space(config.read(SPACES / f"{preset}.yaml"), tuple(models), problems, bound)
    problems.check()
    assert spec is not None
    base = Checkpoint.open(ModelRef(str(family["base"])))
    template = Recipe(ModelRef(str(family["base"])), models, Body(), "bfloat16", tokenizer="base")
    return SearchSpace(spec, template, base.layers, base.places).starts()[label]


@pytest.mark.parametrize("name", FILES)
def test_a_published_start_gives_the_tensors_of_the_papers_file(
    family: dict[str, Path], tmp_path: Path, name: str
) -> None:
    file = tmp_path / "mergekit.yaml"
    file.write_text(textwrap.dedent(FILES[name]).format(**family).lstrip(), encoding="utf-8")
    theirs, _ = load_recipe(file)
    ours = start_of(name, family)
    made = load_file(merge(ours, tmp_path / "ours") / "model.safetensors")
    expected = load_file(merge(theirs, tmp_path / "theirs") / "model.safetensors")
    assert made.keys() == expected.keys()
    for key, tensor in made.items():
        assert tensor.dtype == torch.bfloat16
        # a sum around the base and an average round apart, by one place of bfloat16 at most
        assert torch.allclose(tensor.float(), expected[key].float(), rtol=2**-7, atol=1e-6), key
