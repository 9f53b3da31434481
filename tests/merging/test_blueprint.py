"""What a merged model looks like, also where its blocks are not those of its parents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.engines.huggingface.building import build_model
from evomerge.lines import Lines
from evomerge.merging import Materializer, merge, open_parents
from evomerge.merging.blueprint import Blueprint
from evomerge.recipe import group
from evomerge.testing.engines import recipe_of

SCALED = recipe_of(
    group("task_arithmetic", ("chat", "sea"), {"weight": 0.5}, lines=Lines(0.0, 1.0))
)
SAME = recipe_of(group("task_arithmetic", ("chat", "sea"), {"weight": 0.5}))


def test_blocks_are_their_own_as_a_rule() -> None:
    parents = open_parents(SAME)
    usual = Blueprint.of(parents)
    assert usual.layers == parents.frame.layers == 4
    assert all(set(site.origin.values()) == {site.name} for site in usual.sites)
    assert usual.names == parents.frame.names
    assert usual.sites == Blueprint.of(parents, range(4)).sites
    assert usual.config() == Blueprint.of(parents, range(4)).config()


@pytest.mark.parametrize("blocks", [(0, 1, 1, 3, 2), (2,), ()])
def test_a_block_is_what_it_is_in_the_parents(blocks: tuple[int, ...], tmp_path: Path) -> None:
    """Moved, repeated, left out: the bytes of a merge at the usual depth."""
    parents = open_parents(SAME)
    blueprint = Blueprint.of(parents, blocks)
    found: dict[str, torch.Tensor] = {}
    Materializer(parents, blueprint=blueprint).each(
        SAME, lambda name, tensor: found.update({name: tensor.clone()})
    )
    assert set(found) == set(blueprint.names) and blueprint.layers == len(blocks)
    usual = AutoModelForCausalLM.from_pretrained(merge(SAME, tmp_path / "usual")).state_dict()
    for site in blueprint.sites:
        source = site.name
        if site.place.layer is not None:
            head, tail = f"model.layers.{site.place.layer}.", site.name.split(".", 3)[3]
            assert site.name == head + tail
            source = f"model.layers.{blocks[site.place.layer]}.{tail}"
        assert torch.equal(found[site.name], usual[source]), site.name
        assert site.shape == tuple(usual[source].shape)


def test_a_line_over_depth_goes_over_the_merged_depth() -> None:
    """Block 1 of 3 lies half way, whichever block of the parents it is."""
    parents = open_parents(SCALED)
    model = build_model(Blueprint.of(parents, (3, 3, 3)), parents.donor, "float32", "cpu")
    Materializer(parents, blueprint=Blueprint.of(parents, (3, 3, 3))).into(SCALED, model)
    first, middle, last = (layer.mlp.up_proj.weight for layer in model.model.layers)
    base = parents.tensor("base", "model.layers.3.mlp.up_proj.weight").float()
    assert torch.equal(first, base)
    assert torch.allclose(2 * (middle - base), last - base, atol=1e-6)
    assert not torch.equal(middle, base)


def test_settings_by_block_follow_their_blocks() -> None:
    parents = open_parents(SAME)
    parents.frame.config["layer_types"] = ["a", "b", "c", "d"]
    config = Blueprint.of(parents, (0, 3, 3)).config()
    assert config["layer_types"] == ["a", "d", "d"] and config["num_hidden_layers"] == 3
