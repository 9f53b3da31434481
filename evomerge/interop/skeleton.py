"""What a model consists of, from its ``config.json`` alone: importing needs no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint import ModelRef, locate
from evomerge.tensors import PROJECTIONS, check_architecture, ordered

UNKNOWN_DEPTH = (
    "no config.json of the models is at hand to tell how many there are; give --layers N"
)
_OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
_PROJECTIONS = (
    *(f"self_attn.{part}_proj" for part in PROJECTIONS["attn"]),
    *(f"mlp.{part}_proj" for part in PROJECTIONS["mlp"]),
)
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

    def names(self, layers: int) -> tuple[str, ...]:
        """The tensors of a model of ``layers`` blocks, in depth order, with a head."""
        norms = _NORMS + _MORE_NORMS.get(self.architecture or "", ())
        inside = [f"{part}.weight" for part in (*_PROJECTIONS, *norms)]
        if self.architecture == "Qwen2ForCausalLM":
            inside += [f"self_attn.{part}_proj.bias" for part in "qkv"]
        blocks = (f"model.layers.{layer}.{path}" for layer in range(layers) for path in inside)
        return ordered((*_OUTSIDE, *blocks))


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
