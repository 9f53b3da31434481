"""What a model consists of, from its ``config.json`` alone: importing needs no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint import ModelRef, locate
from evomerge.tensors import Place, check_architecture

UNKNOWN_DEPTH = (
    "no config.json of the models is at hand to tell how many there are; give --layers N"
)
OUTSIDE = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}
_PROJECTIONS = {
    "attn": [f"self_attn.{part}_proj" for part in "qkvo"],
    "mlp": [f"mlp.{part}_proj" for part in ("gate", "up", "down")],
}
_NORMS = ("input_layernorm", "post_attention_layernorm")
_SANDWICH = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_QUERY_KEY = ("self_attn.q_norm", "self_attn.k_norm")
_MORE_NORMS = {
    "Qwen3ForCausalLM": _QUERY_KEY,
    "Gemma2ForCausalLM": _SANDWICH,
    "Gemma3ForCausalLM": _SANDWICH + _QUERY_KEY,
}


@dataclass(frozen=True)
class Skeleton:
    """The names of a model's tensors.

    Attributes:
        layers: number of blocks, None if unknown.
        architecture: transformers class, None if unknown: the tensors that all families have.
        dtype: of the weights, None if unknown.
    """

    layers: int | None = None
    architecture: str | None = None
    dtype: str | None = None

    def names(self, place: Place) -> list[str]:
        """The tensors at ``place``."""
        if place.layer is None:
            return [OUTSIDE[place.role]]
        block = f"model.layers.{place.layer}."
        if place.role == "norm":
            norms = _NORMS + _MORE_NORMS.get(self.architecture or "", ())
            return [f"{block}{norm}.weight" for norm in norms]
        kinds = ["weight", "bias"] if self.architecture == "Qwen2ForCausalLM" else ["weight"]
        return [f"{block}{part}.{kind}" for part in _PROJECTIONS[place.role] for kind in kinds]


def read_skeleton(model: ModelRef) -> Skeleton:
    """The skeleton of ``model``; an empty one if its ``config.json`` is not to be had.

    Raises:
        Incompatible: its architecture is not supported.
    """
    config = _config(model)
    if config is None:
        return Skeleton()
    check_architecture(dict(config), f"{model}: config.json")
    dtype = config.get("dtype") or config.get("torch_dtype")
    layers = config.get("num_hidden_layers")
    return Skeleton(
        layers if isinstance(layers, int) else None,
        config["architectures"][0],
        dtype if isinstance(dtype, str) else None,
    )


def _config(model: ModelRef) -> Mapping[str, Any] | None:
    """``config.json`` of a folder, or of a hub id, of which nothing else is downloaded."""
    text = ModelRef(model.model, model.origin).portable
    repository, _, revision = text.partition("@")
    try:
        if text.startswith("embedded:"):
            path = locate(text) / "config.json"
        elif Path(text).is_absolute():
            path = Path(text) / "config.json"
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(repository, "config.json", revision=revision or None))
        content = json.loads(path.read_text(encoding="utf-8"))
    except Exception:  # no such folder, no connection, no JSON: the merge itself will say it
        return None
    return content if isinstance(content, dict) else None
