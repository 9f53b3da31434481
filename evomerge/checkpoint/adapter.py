"""Plain LoRA adapters, expanded into the tensors they touch."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoint.reading import Checkpoint, read_header, read_json
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class Adapter:
    """A plain PEFT LoRA: W + (lora_alpha / r) B A for each tensor it touches.

    Richer kinds (DoRA, rank patterns, trained biases or embeddings) are refused with the reason.
    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3; rsLoRA divides by sqrt(r).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = read_json(folder / "adapter_config.json")
        self.file = folder / "adapter_model.safetensors"
        if not self.file.is_file():
            raise CheckpointError(f"{folder}: no adapter_model.safetensors in it")
        for key, plain in (
            ("peft_type", ("LORA",)),
            ("use_dora", (False, None)),
            ("bias", ("none", None)),
            ("modules_to_save", (None, [])),
            ("rank_pattern", (None, {})),
            ("alpha_pattern", (None, {})),
            # the others (PiSSA, OLoRA, ...) change the base's own weights
            ("init_lora_weights", (True, False, None, "gaussian", "eva", "orthogonal")),
        ):
            if config.get(key) not in plain:
                raise CheckpointError(
                    f"{folder}: adapter_config.json has {key}: {config.get(key)!r}; only plain LoRA is "
                    "expanded here. Merge it into its base with peft (merge_and_unload) and name that folder"
                )
        if missing := [key for key in ("r", "lora_alpha") if not config.get(key)]:
            raise CheckpointError(f"{folder}: adapter_config.json has no {missing[0]}")
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        self.scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        self.transposed = bool(config.get("fan_in_fan_out"))
        self._entries = read_header(self.file)
        self._pairs: dict[str, dict[str, str]] = {}
        for key in self._entries:
            match = re.match(r"^base_model\.model\.(.+)\.lora_(A|B)(?:\.default)?\.weight$", key)
            if not match:
                raise CheckpointError(f"{self.file}: {key!r} is not a plain LoRA matrix")
            self._pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = key

    def check(self, model: Checkpoint) -> None:
        """Refuse an adapter that was trained for another model."""
        for name, pair in self._pairs.items():
            if set(pair) != {"A", "B"}:
                raise CheckpointError(f"{self.file}: only one of the two LoRA matrices of {name!r}")
            if name not in model.names:
                raise CheckpointError(
                    f"{self.folder}: adapts {name!r}, which {model.name} does not have"
                )
            out, inner = self._entries[pair["B"]].shape[0], self._entries[pair["A"]].shape[1]
            shape = (inner, out) if self.transposed else (out, inner)
            if model.entry(name).shape != shape:
                raise CheckpointError(
                    f"{self.folder}: adapts {name!r} as {shape}, but in {model.name} it is "
                    f"{model.entry(name).shape}; the adapter belongs to another model"
                )

    def applied(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` with the adapter's update, float32; untouched tensors come back as they are."""
        if name not in self._pairs:
            return tensor
        from safetensors import safe_open

        with safe_open(self.file, framework="pt", device="cpu") as file:
            a, b = (file.get_tensor(self._pairs[name][key]).float() for key in ("A", "B"))
        update: torch.Tensor = (b @ a) * self.scale
        return tensor.float() + (update.T if self.transposed else update)
