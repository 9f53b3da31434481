"""Tiny random models for tests: real folders that transformers loads, made in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
STEP = 0.05  # standard deviation of a parent's random task vector
SPREAD = 0.3  # of the base's weights: wide enough for outputs that differ between inputs


def byte_tokenizer() -> Any:
    """A byte-level tokenizer without merges, with a chat template: 258 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: row for row, token in enumerate(["<s>", "</s>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_family(
    folder: Path,
    names: Sequence[str] = ("base", "chat", "sea"),
    *,
    architecture: str = "Llama",
    dtype: str = "float32",
    seed: int = 0,
    **shape: Any,
) -> dict[str, Path]:
    """A random base and parents that are small random steps away from it, as folders.

    Args:
        folder: where to make one folder a name.
        names: the base first.
        architecture: a transformers family: Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma2, Gemma3.
        dtype: of the stored weights.
        seed: of all weights.
        shape: departures from ``SHAPE``, as the family's config names them.
    """
    import torch
    import transformers

    name = "Gemma3Text" if architecture == "Gemma3" else architecture
    config_class = getattr(transformers, f"{name}Config")
    model_class = getattr(transformers, f"{architecture}ForCausalLM")
    tokenizer = byte_tokenizer()
    options = {"tie_word_embeddings": True, "initializer_range": SPREAD, **SHAPE, **shape}
    if architecture.startswith(("Gemma", "Qwen3")):
        options.setdefault("head_dim", 16)
    config = config_class(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **options)
    made = {}
    for number, member in enumerate(names):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = model_class(config)
            torch.manual_seed(seed + number)
            if number:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.add_(STEP * torch.randn_like(parameter))
        model.to(getattr(torch, dtype)).save_pretrained(folder / member)
        tokenizer.save_pretrained(folder / member)
        made[member] = folder / member
    return made
