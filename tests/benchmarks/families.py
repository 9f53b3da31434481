"""Synthetic families for benchmarks: checkpoints of a real model's shape, made in seconds.

Weights are normal with the rms of trained ones, task vectors a few percent of it, and everything is
stored in bfloat16: most entries of a delta are few multiples of the weights' spacing, and many are 0,
as in fine-tuned models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "toy": {
        "num_hidden_layers": 1,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "135M": {  # SmolLM2-135M
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "500M": {  # Qwen2.5-0.5B, without its biases
        "num_hidden_layers": 24,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
}
SHAPES["1B"] = {  # Llama-3.2-1B
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
MODELS = ("base", "a", "b", "c")
WEIGHT, DELTA = 0.02, (3e-4, 1e-3)  # rms of the base's weights; least and largest rms of a delta


def make(folder: Path, size: str) -> Path:
    """The family of a size in ``folder``, made unless it is there: ``base`` and three sources."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from evomerge.testing.models import byte_tokenizer

    family = folder / size
    if (family / "whole").exists():
        return family
    config = LlamaConfig(**SHAPES[size], tie_word_embeddings=True, dtype="bfloat16")
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in LlamaForCausalLM(config).named_parameters()}
    draws = torch.Generator().manual_seed(0)

    def normal(shape: Any, rms: float) -> torch.Tensor:
        return torch.randn(shape, generator=draws) * rms

    base = {
        name: (normal(shape, WEIGHT) + (len(shape) == 1)).bfloat16()
        for name, shape in shapes.items()
    }
    low, high = DELTA
    for model in MODELS:
        tensors = base
        if model != "base":
            tensors = {
                name: (stored.float() + normal(stored.shape, low + (high - low) * float(spread)))
                .bfloat16()
                .contiguous()
                for (name, stored), spread in zip(
                    base.items(), torch.rand(len(base), generator=draws), strict=True
                )
            }
        (family / model).mkdir(parents=True, exist_ok=True)
        config.save_pretrained(family / model)
        byte_tokenizer().save_pretrained(family / model)
        save_file(tensors, family / model / "model.safetensors", metadata={"format": "pt"})
    (family / "whole").touch()
    return family
