"""Where tensors sit, by the modules of models, not by names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import LlamaForCausalLM

from evomerge.checkpoint.effective import Effective
from evomerge.errors import Incompatible
from evomerge.skeleton import check_architecture, check_depth, computed, modules, usual
from evomerge.skeleton.modules import own_config
from evomerge.tensors import FINE, PROJECTIONS, Place, coarse, dense, ordered
from evomerge.testing.models import tiny_family

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3")


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_tensor_of_an_architecture_has_its_place(tmp_path: Path, architecture: str) -> None:
    """Checked against what transformers itself saves, biases and untied heads included."""
    shape: dict[str, Any] = (
        {"tie_word_embeddings": False} if architecture in ("Llama", "Qwen2") else {}
    )
    folder = tiny_family(tmp_path, ("base",), architecture=architecture, **shape)["base"]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    places = usual(4, f"{architecture}ForCausalLM").places
    assert set(places) == {*names, "lm_head.weight"}
    assert {p.layer for p in places.values()} == {None, 0, 1, 2, 3}
    for name, place in places.items():
        assert place.tensor == name
        assert (place.layer is None) == (".layers." not in name)
        expected = {
            "norm" in name: "norm",
            "_proj" in name: "attn" if "attn" in name else "mlp",
            "embed" in name: "embed",
            "lm_head" in name: "head",
        }
        assert place.role == expected[True]
        assert place.projection in ("", *PROJECTIONS.get(place.role, ()))
        assert place.projection == (
            name.partition("_proj")[0].rpartition(".")[2] * ("_proj" in name)
        )
    assert ("lm_head.weight" in names) == bool(shape)


def test_tensors_are_ordered_by_depth() -> None:
    layers = [f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1, 2, 10, 11)]
    expected = ("model.embed_tokens.weight", *layers, "model.norm.weight", "lm_head.weight")
    places = usual(12).places
    assert ordered({name: places[name] for name in sorted(expected)}) == expected
    assert ordered({name: places[name] for name in reversed(expected)}) == expected


def test_places_of_a_model_are_its_layers_and_roles() -> None:
    assert coarse(usual(3).places.values(), 3) == dense(3)
    tied = [place for place in usual(3).places.values() if place.role != "head"]
    assert coarse(tied, 3) == dense(3), "a head that is the embedding has a place, too"


def test_what_follows_from_the_config_is_no_tensor() -> None:
    for name in (
        "model.layers.3.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
        "transformer.h.0.attn.masked_bias",
        "gpt_neox.layers.0.attention.rotary_emb.cos_cached",
    ):
        assert computed(name), name
    for name in ("lm_head.weight", "model.layers.0.self_attn.q_proj.bias", "inv_freq.weight"):
        assert not computed(name), name


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_no_config_names_kernels_of_the_hub(key: str) -> None:
    own = own_config(LlamaForCausalLM, {"num_hidden_layers": 1, key: "owner/kernels"})
    assert "owner/kernels" not in str(own.to_dict()) + str(own._attn_implementation)


def test_what_names_no_architecture_is_refused() -> None:
    assert check_architecture({"architectures": ["Qwen3ForCausalLM"]}, "x") == "Qwen3ForCausalLM"
    unknown: list[dict[str, object]] = [
        {},
        {"architectures": []},
        {"architectures": None},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": [["x"]]},
        {"architectures": ["os.system"]},
    ]
    for config in unknown:
        with pytest.raises(Incompatible, match=r"some/model: config.json: architectures: expected"):
            check_architecture(config, "some/model")
    with pytest.raises(Incompatible, match="no model called 'FictionForCausalLM'"):
        usual(2, "FictionForCausalLM")
    with pytest.raises(Incompatible, match="no model called 'AutoConfig'"):
        usual(2, "AutoConfig")


def test_a_config_of_more_blocks_than_tensors_is_not_built() -> None:
    for config in ({"num_hidden_layers": 10**9}, {"text_config": {"num_hidden_layers": 10**9}}):
        with pytest.raises(Incompatible, match="num_hidden_layers is 1,000,000,000"):
            check_depth(config, "some/model", 290)
    check_depth({"num_hidden_layers": 32, "text_config": None}, "some/model", 290)


def test_no_tower_asks_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import backbone_utils

    def asked() -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(backbone_utils, "hf_api", asked)
    tower = {"model_type": "detr", "backbone": "a/b", "use_timm_backbone": False}
    for config in (tower, {"model_type": "llava", "vision_config": tower}):
        assert Effective.of({"architectures": ["LlamaForCausalLM"], **config})
        assert own_config(LlamaForCausalLM, {"architectures": ["LlamaForCausalLM"], **config})


def test_no_key_stands_for_another() -> None:
    """As `attribute_map` has it, by which transformers renames what a config says."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attribute_map": {"zzz": "_attn_implementation"},
        "zzz": "evil/kernel",
    }
    assert own_config(LlamaForCausalLM, config)._attn_implementation is None
    assert modules.meta_model({**config, "num_hidden_layers": 1}, "some/model")


def test_no_model_starts_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers.utils import import_utils

    (tmp_path / "ninja").write_text(f"#!/bin/sh\ntouch {tmp_path / 'canary'}\n")
    (tmp_path / "ninja").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    import_utils.is_ninja_available.cache_clear()
    config = {
        "architectures": ["RwkvForCausalLM"],
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "vocab_size": 64,
    }
    assert modules.meta_model(config, "some/model")
    assert not (tmp_path / "canary").exists()
    import_utils.is_ninja_available.cache_clear()


def test_no_tower_brings_its_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def asked(question: str) -> str:
        raise AssertionError(f"somebody was asked {question}")

    monkeypatch.setattr("builtins.input", asked)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    size = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    source = {"_name_or_path": str(tmp_path), "name_or_path": str(tmp_path)}
    tower = {
        "model_type": "siglip_text_model",
        "auto_map": {"AutoModel": "evil.Evil"},
        **source,
        **size,
    }
    text = {"model_type": "llama", "num_key_value_heads": 2, "vocab_size": 32, **size}
    architecture = "LlavaForConditionalGeneration"
    config = {
        "architectures": [architecture],
        "model_type": "llava",
        "text_config": text,
        "vision_config": tower,
    }
    with pytest.raises(Incompatible, match=f"makes no {architecture} of it"):
        modules.meta_model(config, "some/model")
    assert not (tmp_path / "canary").exists()


def test_a_model_of_too_many_modules_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"architectures": ["GPT2LMHeadModel"], "n_layer": 90}
    modules.meta_model(config, "some/model")
    monkeypatch.setattr(modules, "MOST_MODULES", 1000)
    with pytest.raises(Incompatible, match=r"some/model: config\.json: asks for a model of more"):
        modules.meta_model(config, "some/model")
    modules.meta_model({**config, "n_layer": 2}, "some/model")  # the next counts anew


def test_a_tensor_has_the_same_name_in_every_block() -> None:
    name, norm = "model.layers.12.self_attn.q_proj.weight", "model.norm.weight"
    inside, outside = usual(13).places[name], usual(13).places[norm]
    assert (inside.inner, outside.inner) == ("self_attn.q_proj.weight", norm)
    assert (inside.at(3), outside.at(3)) == (name.replace("12", "3"), norm)
    assert [each.brief for each in (inside, outside)] == ["12.self_attn.q_proj", "norm"]


def test_a_place_lies_within_roles_finer_roles_and_names() -> None:
    name = "model.layers.2.self_attn.q_proj.weight"
    place = usual(3).places[name]
    for roles, inside in ((["attn"], True), (["q"], True), (["k", "mlp"], False), (None, True)):
        assert place.within(None, roles) == place.within((1, 2), roles, [name]) == inside
        assert not place.within((3, 3), roles)
        assert not place.within(None, roles, [name.replace("2", "1")])
    assert all(not Place(2, "attn").within(None, [part]) for part in FINE), "it is not known which"


def test_places_compare_by_value() -> None:
    assert usual(3).places["model.layers.2.self_attn.q_proj.weight"] == Place(2, "attn")
