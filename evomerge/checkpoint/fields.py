"""What the JSON files of a model folder may hold, key by key.

A folder comes from strangers. A value that is not of its key's kind is refused here, once, in one message
with file and key; who reads it afterwards need not ask. Keys that are in no table mean nothing to evomerge.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.config import shown
from evomerge.errors import CheckpointError

MOST = 2**63  # whole numbers are below


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        expected: in words, for messages.
        holds: whether a value is one.
    """

    expected: str
    holds: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(
            f"{self.expected} or {other.expected}",
            lambda value: self.holds(value) or other.holds(value),
        )


def whole(low: int, high: int = MOST - 1) -> Kind:
    """A whole number of at least ``low``, and at most ``high``."""
    bound = f"of at least {low}" if high == MOST - 1 else f"in {low}..{high}"
    return Kind(
        f"a whole number {bound}", lambda value: type(value) is int and low <= value <= high
    )


def number(low: float = -sys.float_info.max) -> Kind:
    """A number, of at least ``low``; neither NaN nor infinite, and no whole number beyond all floats."""
    bound = "" if low == -sys.float_info.max else f" of at least {low:g}"
    return Kind(
        f"a number{bound}",
        lambda value: type(value) in (int, float) and low <= value <= sys.float_info.max,
    )


def each(kind: Kind, name: str) -> Kind:
    """A list of such values, called ``name``."""
    return Kind(
        f"a list of {name}",
        lambda value: isinstance(value, list) and all(map(kind.holds, value)),
    )


def mapping(kind: Kind, name: str) -> Kind:
    """An object whose values are such, called ``name``."""
    return Kind(
        f"an object of {name}",
        lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())),
    )


TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
SIZE = whole(1)
NUMBER = number()
TEXTS = each(TEXT, "texts")
TOKEN = Kind("a token id", lambda value: type(value) is int and -MOST < value < MOST)  # -1: none
TOKENS = TOKEN | each(TOKEN, "token ids")
SPECIAL = TEXT | OBJECT  # a token, or a token with what it strips
# what names classes of code; an old form of a tokenizer's is a list
_CLASSES = OBJECT | each(
    Kind("a class, or null", lambda value: value is None or TEXT.holds(value)), "classes"
)
_SIZES = SIZE | each(whole(0), "such, a layer each")
_BLOCKS = whole(1, 10_000)  # whoever makes a model of a config makes each of them
_PARTS = 100_000
_EXPERTS = whole(0, _PARTS)
_COUNTS = re.compile(r"(?:layers?|blocks|depths?|stages|repeats|experts|labels|attention_types)$")
_LAYERED = whole(0) | each(whole(0), "such, a layer each")

CONFIG: Mapping[str, Kind] = {
    "architectures": TEXTS,
    "model_type": TEXT,
    "tokenizer_class": TEXT,
    "tie_word_embeddings": FLAG,
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "intermediate_size": _SIZES,
    "num_hidden_layers": _BLOCKS,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), _EXPERTS),
    "num_attention_heads": _SIZES,
    "num_key_value_heads": _SIZES,
    "head_dim": _SIZES,
    "max_position_embeddings": SIZE,
    "sliding_window": _LAYERED,
    "hidden_act": TEXT,
    "hidden_activation": TEXT,
    "rms_norm_eps": number(0),
    "initializer_range": number(0),
    "rope_theta": number(0),
    "rope_scaling": OBJECT,
    "rope_parameters": OBJECT,
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "layer_types": TEXTS,
    "dtype": TEXT | OBJECT,
    "torch_dtype": TEXT | OBJECT,
    "quantization_config": OBJECT,
    "text_config": OBJECT,
    "auto_map": _CLASSES,
    "transformers_weights": TEXT,
}
INDEX: Mapping[str, Kind] = {"weight_map": mapping(TEXT, "file names"), "metadata": OBJECT}
ADAPTER_CONFIG: Mapping[str, Kind] = {
    "peft_type": TEXT,
    "base_model_name_or_path": TEXT,
    "r": SIZE,
    "lora_alpha": NUMBER,
    "rank_pattern": mapping(SIZE, "whole numbers of at least 1"),
    "alpha_pattern": mapping(NUMBER, "numbers"),
    "use_rslora": FLAG,
    "use_dora": FLAG,
    "fan_in_fan_out": FLAG,
    "target_modules": TEXT | TEXTS,
    "modules_to_save": TEXTS,
    "layers_to_transform": whole(0) | each(whole(0), "layers"),
}
TOKENIZER_CONFIG: Mapping[str, Kind] = {
    "tokenizer_class": TEXT,
    "model_max_length": number(0),
    "chat_template": TEXT | each(OBJECT, "named templates"),
    "added_tokens_decoder": mapping(OBJECT, "tokens by id"),
    "additional_special_tokens": each(SPECIAL, "tokens"),
    "extra_special_tokens": OBJECT | each(SPECIAL, "tokens"),
    "auto_map": _CLASSES,
    **dict.fromkeys(
        (
            "bos_token",
            "eos_token",
            "unk_token",
            "pad_token",
            "sep_token",
            "cls_token",
            "mask_token",
        ),
        SPECIAL,
    ),
    **dict.fromkeys(
        ("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces"), FLAG
    ),
}
GENERATION_CONFIG: Mapping[str, Kind] = {
    "do_sample": FLAG,
    "use_cache": FLAG,
    "temperature": number(0),
    "top_k": whole(0),
    "top_p": number(0),
    "repetition_penalty": number(0),
    "max_length": whole(0),
    "max_new_tokens": whole(0),
    "suppress_tokens": each(TOKEN, "token ids"),
}
TOKENIZER: Mapping[str, Kind] = {"model": OBJECT, "added_tokens": each(OBJECT, "tokens")}
KINDS: Mapping[str, Mapping[str, Kind]] = {  # by the name of the file
    "config.json": CONFIG,
    "model.safetensors.index.json": INDEX,
    "adapter_config.json": ADAPTER_CONFIG,
    "tokenizer_config.json": TOKENIZER_CONFIG,
    "generation_config.json": GENERATION_CONFIG,
    "tokenizer.json": TOKENIZER,
}


def check_fields(content: Mapping[str, Any], file: Path) -> None:
    """Refuse a value that is not of its key's kind; null stands for an absent one.

    Raises:
        CheckpointError: one is not, with file and key.
    """
    kinds = KINDS.get(file.name, {})
    _check(content, kinds, file, "")
    if isinstance(text := content.get("text_config"), dict) and kinds is CONFIG:
        _check(text, kinds, file, "text_config.")
    if kinds is CONFIG:
        _check_counts(content, file)


def _check_counts(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a number of layers, experts or labels, by whatever name, of which each would be made in memory."""
    left: list[tuple[str, bool, Any]] = [("", False, config)]
    while left:
        where, counts, value = left.pop()
        if isinstance(value, dict):
            within = f"{where}." if where else ""
            left += [(f"{within}{k}", bool(_COUNTS.search(k)), item) for k, item in value.items()]
        elif isinstance(value, list):
            left += [(where, counts, item) for item in value]
        elif counts and type(value) is int and value > _PARTS:
            raise CheckpointError(
                f"{file}: {where}: expected at most {_PARTS:,}, found {shown(value)}"
            )


def _check(content: Mapping[str, Any], kinds: Mapping[str, Kind], file: Path, within: str) -> None:
    for key, value in content.items():
        kind = TOKENS if key.endswith("_token_id") else kinds.get(key)
        if kind is not None and value is not None:
            field(content, key, kind, file, within)


def field(
    content: Mapping[str, Any], key: str, kind: Kind, file: Path | str, within: str = ""
) -> Any:
    """The value of ``key``, which must be there.

    Args:
        content: an object of ``file``.
        key: of it.
        kind: of its value.
        within: where in the file the object stands: ``"model."``.

    Raises:
        CheckpointError: it is missing, or of another kind.
    """
    if key not in content:
        raise CheckpointError(f"{file}: {within}{key}: missing; expected {kind.expected}")
    value = content[key]
    if not kind.holds(value):
        raise CheckpointError(
            f"{file}: {within}{key}: expected {kind.expected}, found {shown(value)}"
        )
    return value
