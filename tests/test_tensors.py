from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from evomerge.errors import Incompatible
from evomerge.interop.skeleton import Skeleton
from evomerge.tensors import (
    ARCHITECTURES,
    FINE,
    PROJECTIONS,
    Place,
    at_layer,
    brief,
    check_architecture,
    ignored,
    ordered,
    path_of,
    place_of,
)
from evomerge.testing.models import tiny_family

FAMILIES = [name.removesuffix("ForCausalLM") for name in ARCHITECTURES]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_tensor_of_an_architecture_has_its_place(tmp_path: Path, architecture: str) -> None:
    """Checked against what transformers itself saves, biases and untied heads included."""
    shape: dict[str, Any] = (
        {"tie_word_embeddings": False} if architecture in ("Llama", "Qwen2") else {}
    )
    folder = tiny_family(tmp_path, ("base",), architecture=architecture, **shape)["base"]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    places = {name: place_of(name) for name in names}
    assert {p.layer for p in places.values()} == {None, 0, 1, 2, 3}
    for name, place in places.items():
        assert (place.layer is None) == (".layers." not in name)
        expected = {
            "norm" in name: "norm",
            "_proj" in name: "attn" if "attn" in name else "mlp",
            "embed" in name: "embed",
            "lm_head" in name: "head",
        }
        assert place.role == expected[True]
        assert bool(place.projection) == ("_proj" in name)
        assert place.projection in ("", *PROJECTIONS.get(place.role, ()))
        assert place.projection == (
            name.partition("_proj")[0].rpartition(".")[2] * ("_proj" in name)
        )
    assert ("lm_head.weight" in names) == bool(shape)
    known = Skeleton(architecture=f"{architecture}ForCausalLM").names(4)
    assert known == ordered({*names, "lm_head.weight"}), "what importing needs no weights for"


def test_tensors_are_ordered_by_depth() -> None:
    layers = [f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1, 2, 10, 11)]
    expected = ("model.embed_tokens.weight", *layers, "model.norm.weight", "lm_head.weight")
    assert ordered(sorted(expected)) == expected
    assert ordered(reversed(expected)) == expected


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.0.attn.c_attn.weight",
        "model.layers.0.mlp.experts.0.up_proj.weight",
        "model.layers.0.mlp.up_proj.qweight",
        "model.layers.x.mlp.up_proj.weight",
        "model.embed_tokens.weight.extra",
        "",
    ],
)
def test_a_foreign_name_is_refused(name: str) -> None:
    with pytest.raises(Incompatible, match="naming scheme"):
        place_of(name)


def test_what_is_stored_but_no_parameter_is_ignored() -> None:
    assert ignored("model.layers.3.self_attn.rotary_emb.inv_freq", tied=False)
    assert ignored("lm_head.weight", tied=True)
    assert not ignored("lm_head.weight", tied=False)
    assert not ignored("model.embed_tokens.weight", tied=True)


def test_an_unknown_architecture_is_refused() -> None:
    assert check_architecture({"architectures": ["Qwen3ForCausalLM"]}, "x") == "Qwen3ForCausalLM"
    unknown: list[dict[str, object]] = [
        {},
        {"architectures": []},
        {"architectures": None},
        {"architectures": ["X"]},
    ]
    for config in unknown:
        with pytest.raises(Incompatible, match=r"some/model: architecture .* is not supported"):
            check_architecture(config, "some/model")


def test_a_tensor_has_the_same_name_in_every_block() -> None:
    name, norm = "model.layers.12.self_attn.q_proj.weight", "model.norm.weight"
    assert (path_of(name), path_of(norm)) == ("self_attn.q_proj.weight", norm)
    assert (at_layer(name, 3), at_layer(norm, 3)) == (name.replace("12", "3"), norm)
    assert [brief(each) for each in (name, norm)] == ["12.self_attn.q_proj", "norm"]


def test_a_place_lies_within_roles_finer_roles_and_names() -> None:
    name = "model.layers.2.self_attn.q_proj.weight"
    place = place_of(name)
    for roles, inside in ((["attn"], True), (["q"], True), (["k", "mlp"], False), (None, True)):
        assert place.within(None, roles) == place.within((1, 2), roles, [name]) == inside
        assert not place.within((3, 3), roles)
        assert not place.within(None, roles, [name.replace("2", "1")])
    assert all(not Place(2, "attn").within(None, [part]) for part in FINE), "it is not known which"


def test_places_compare_by_value() -> None:
    assert place_of("model.layers.2.self_attn.q_proj.bias") == Place(2, "attn")
