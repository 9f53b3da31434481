"""What a merged model looks like, also where its blocks are not those of its parents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.checkpoint import ModelRef
from evomerge.errors import Incompatible
from evomerge.lines import Lines
from evomerge.merging import Materializer, merge, open_parents
from evomerge.merging.blueprint import Blueprint
from evomerge.paths import Hop
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.engines import recipe_of
from evomerge.testing.zoo import tiny_members

SAME = recipe_of(
    group("dare_ties", ("chat", "sea"), layers=(1, 2)),
    group("task_arithmetic", ("chat", "sea"), {"weight": 0.5}, lines=Lines(0.0, 1.0)),
)


def along(recipe: Recipe, *path: Hop) -> Recipe:
    """The same with a path."""
    return replace(recipe, body=replace(recipe.body, path=path))


def tensors(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The merged tensors by name."""
    found: dict[str, torch.Tensor] = {}
    Materializer(open_parents(recipe)).each(
        recipe, lambda name, tensor: found.update({name: tensor.clone()})
    )
    return found


def test_blocks_are_their_own_as_a_rule() -> None:
    parents = open_parents(SAME)
    usual = Blueprint.of(parents)
    assert usual.layers == parents.frame.layers == 4
    assert all(set(site.origin.values()) == {site.name} for site in usual.sites)
    assert usual.names == parents.frame.names
    own = Blueprint.of(parents, tuple(map(Hop, range(4))))
    assert usual.sites == own.sites and usual.config() == own.config()
    assert own.merge is own and not own.again


@pytest.mark.parametrize("blocks", [(0, 1, 1, 3, 2), (2,), ()])
def test_a_block_is_what_it_is_in_the_merge(blocks: tuple[int, ...]) -> None:
    """Moved, repeated, left out: the bytes of the merge without a path, random masks and lines over depth too."""
    moved = along(SAME, *map(Hop, blocks))
    blueprint = Blueprint.of(open_parents(SAME), moved.body.path)
    found, usual = tensors(moved), tensors(SAME)
    assert set(found) == set(blueprint.names) and blueprint.layers == len(blocks)
    for site in blueprint.sites:
        number = site.name.split(".")[2]
        source = site.name
        if number.isdigit():
            source = f"model.layers.{blocks[int(number)]}.{site.name.split('.', 3)[3]}"
        assert site.place.tensor == source
        assert torch.equal(found[site.name], usual[source]), site.name


def test_a_block_of_a_single_model_is_as_it_is_there() -> None:
    moved = along(SAME, Hop(0), Hop(2, "sea"), Hop(2), Hop(3))
    found, usual = tensors(moved), tensors(SAME)
    sea = open_parents(SAME).models["sea"]
    for tail in ("self_attn.q_proj.weight", "post_attention_layernorm.weight"):
        theirs = sea.tensor(f"model.layers.2.{tail}").float()
        assert torch.equal(found[f"model.layers.1.{tail}"], theirs)
        assert torch.equal(found[f"model.layers.2.{tail}"], usual[f"model.layers.2.{tail}"])


def test_scales_are_divided_by_where_blocks_add() -> None:
    moved = along(SAME, Hop(0), Hop(1), Hop(1, None, 0.8), Hop(2), Hop(3, None, 2.5))
    found, usual = tensors(moved), tensors(SAME)
    scales = {2: (1, 0.8), 3: (2, 0.8), 4: (3, 2.0)}
    for number, (block, scale) in scales.items():
        for tail in ("self_attn.o_proj.weight", "mlp.down_proj.weight", "mlp.up_proj.weight"):
            factor = 1.0 if "up_proj" in tail else 1 / scale
            expected = usual[f"model.layers.{block}.{tail}"] * factor
            assert torch.allclose(found[f"model.layers.{number}.{tail}"], expected, rtol=1e-6)


def test_a_scaled_hop_scales_the_hidden_state(tmp_path: Path) -> None:
    """As a hook on the block does it, but for the norms' epsilon."""
    scale = 0.7
    blocks = (Hop(0), Hop(1), Hop(1, None, scale), Hop(2), Hop(3))
    made = AutoModelForCausalLM.from_pretrained(merge(along(SAME, *blocks), tmp_path / "made"))
    plain = along(SAME, *(replace(hop, scale=1.0) for hop in blocks))
    hooked = AutoModelForCausalLM.from_pretrained(merge(plain, tmp_path / "plain"))
    hooked.model.layers[2].register_forward_pre_hook(
        lambda _, given: (given[0] * scale, *given[1:])
    )
    tokens = torch.arange(40).reshape(2, 20)
    expected, found = hooked(tokens).logits, made(tokens).logits
    assert torch.allclose(found, expected, atol=2e-3)
    unscaled = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")(tokens).logits
    assert (unscaled - expected).abs().max() > 0.1


def test_settings_by_block_follow_their_blocks() -> None:
    parents = open_parents(SAME)
    parents.frame.config["layer_types"] = ["full_attention"] * 4
    config = Blueprint.of(parents, tuple(map(Hop, (0, 3, 3)))).config()
    assert config["layer_types"] == ["full_attention"] * 3 and config["num_hidden_layers"] == 3


def test_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(Incompatible, match="no layer 4: there are 4"):
        tensors(along(SAME, Hop(4)))


def test_a_head_for_more_tokens_stays_right_behind_the_blocks(tmp_path: Path) -> None:
    """GLM-4.5 stores it as the layer behind the last one: there loaders look for it, by the number of layers."""
    made = tiny_members(
        tmp_path, "glm4_moe", "Glm4MoeForCausalLM", ("base", "a"), num_hidden_layers=46
    )
    for folder in made.values():
        file = folder / "model.safetensors"
        tensors = load_file(file)
        more = {
            n.replace(".45.", ".46.", 1): t + 1 for n, t in tensors.items() if ".layers.45." in n
        }
        save_file({**tensors, **more}, file, metadata={"format": "pt"})
    base, source = (ModelRef(str(folder)) for folder in made.values())
    parents = open_parents(
        Recipe(base, {"a": source}, Body((group("linear", ("a",)),)), "float32", tokenizer="a")
    )
    turned = Blueprint.of(parents, tuple(map(Hop, (0, 2, 1, *range(3, 46)))))
    assert "model.layers.46.mlp.gate.weight" in turned.names, (
        "it stands right behind as many blocks"
    )
    for path in (range(40), (*range(46), 45)):
        with pytest.raises(
            Incompatible, match=r"holds model\.layers\.46\..* behind its blocks.*path of 46 blocks"
        ):
            Blueprint.of(parents, tuple(map(Hop, path)))


def test_a_scale_is_refused_where_a_trial_does_not_run(tmp_path: Path) -> None:
    """RoBERTa wants a token that fills up, which the trial of one block takes away."""
    made = tiny_members(tmp_path, "roberta", "RobertaModel", ("base", "a"), pad_token_id=1)
    base, source = (ModelRef(str(folder)) for folder in made.values())
    parents = open_parents(
        Recipe(base, {"a": source}, Body((group("linear", ("a",)),)), "float32", tokenizer="a")
    )
    with pytest.raises(Incompatible, match="leave `scale` out"):
        Blueprint.of(parents, (Hop(0), Hop(1, None, 0.9), Hop(2)))
