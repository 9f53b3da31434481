"""What a model consists of, from its ``config.json`` alone: importing needs no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint import ModelRef, locate
from evomerge.skeleton import Skeleton, usual
from evomerge.tensors import Place

UNKNOWN_DEPTH = (
    "no config.json of the models is at hand to tell how many there are; give --layers N"
)


@dataclass(frozen=True)
class Anatomy:
    """The tensors of the models of a mergekit file.

    Attributes:
        skeleton: of one of them, None if unknown: the tensors that most families have are taken for it.
        layers: number of blocks, None if unknown.
        dtype: of the weights, None if unknown.
    """

    skeleton: Skeleton | None = None
    layers: int | None = None
    dtype: str | None = None

    def places(self, layers: int) -> Mapping[str, Place]:
        """Where the tensors of a model of ``layers`` blocks sit, in depth order, with a head."""
        skeleton = self.skeleton or usual(layers)
        return {name: part.place for name, part in skeleton.parts.items()}


def read_anatomy(model: ModelRef) -> Anatomy:
    """What ``model`` is made of; of an empty one if its ``config.json`` is not to be had.

    Raises:
        Incompatible: transformers has no such architecture.
    """
    config = _config(model)
    if config is None:
        return Anatomy()
    skeleton = Skeleton.of(config, str(model))
    dtype = config.get("dtype") or config.get("torch_dtype")
    return Anatomy(skeleton, skeleton.layers, dtype if isinstance(dtype, str) else None)


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
