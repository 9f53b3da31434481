"""Tiny random members of the families that transformers knows: a small config for each type of model.

A config is the type's default with its sizes made small, by the names that config classes have for them; what
that leaves at odds is set by type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.testing.models import STEP, byte_tokenizer

LAYERS, HEADS, HEAD, EXPERTS = 4, 2, 16, 4
HIDDEN = HEADS * HEAD
VOCABULARY = 258

# by the name of an entry: its small value
_SMALL: tuple[tuple[str, Any], ...] = (
    (r"vocab_size|vocab_size_per_layer_input|padded_vocab_size|embedding_vocab_size", VOCABULARY),
    (r"num_hidden_layers|n_layers?|num_layers|num_blocks|num_decoder_layers", LAYERS),
    (r"hidden_size|d_model|n_embd|dim|model_dim|d_embed|embedding_size|input_embedding_size|embed_dim|dim_model|"
     r"word_embed_proj_dim|attention_hidden_size|lru_width|residual_dim|linear_attn_hidden_size", HIDDEN),
    (r"intermediate_size|ffn_dim|d_ff|n_inner|inner_dim|dim_ff|ffn_hidden_size|mlp_hidden_size|d_inner|"
     r"decoder_ffn_dim|moe_intermediate_size|shared_expert_intermediate_size|expert_intermediate_size|"
     r"expert_ffn_hidden_size|intermediate_size_mlp|shared_intermediate_size|mamba_d_ssm|"
     r"moe_shared_expert_intermediate_size|ff_inner_dim|dense_intermediate_size", 2 * HIDDEN),
    (r"num_attention_heads|n_heads?|num_heads|decoder_attention_heads|encoder_attention_heads|"
     r"num_global_attention_heads|index_n_heads|swa_num_attention_heads", HEADS),
    (r"num_key_value_heads|num_kv_heads|multi_query_group_num|num_global_key_value_heads|swa_num_key_value_heads", HEADS),
    (r"head_dim|v_head_dim|qk_nope_head_dim|attention_head_dim|global_head_dim|d_kv|qk_head_dim|kv_channels|"
     r"swa_head_dim|swa_v_head_dim|index_head_dim", HEAD),
    (r"qk_rope_head_dim|rotary_dim", 8),
    (r"q_lora_rank|kv_lora_rank", 8),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts|n_experts", EXPERTS),
    (r"num_experts_per_tok|moe_topk|moe_k|num_experts_per_token|top_k_experts|moe_top_k", 2),
    (r"n_group|topk_group|num_expert_group|moe_n_group", 1),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"max_position_embeddings|n_positions|max_seq_len|max_sequence_length|n_ctx|seq_length", 256),
    (r"linear_num_key_heads|linear_num_value_heads|linear_conv_kernel_dim", 2),
    (r"linear_key_head_dim|linear_value_head_dim", HEAD),
    (r"hidden_size_per_layer_input|per_layer_input_size", 8),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 4),
    (r"mamba_d_head|mamba_head_dim", HEAD),
    (r"mamba_d_state|ssm_state_size|state_size|mamba_state_dim", 8),
    (r"mamba_n_groups|n_groups|mamba_ngroups", 1),
    (r"mamba_chunk_size|chunk_size", 16),
    (r"time_step_rank|mamba_dt_rank", 4),
    (r"sliding_window|attention_window_size|window_size|sliding_window_size", 64),
    (r"pad_token_id", 1),
    (r"bos_token_id", 0),
    (r"eos_token_id", 1),
)  # fmt: skip
_LISTS = re.compile(r"layer_types|layers_block_type|mlp_layer_types|block_types|layer_pattern")
# by type: what is at odds otherwise
_CAUSAL = {"is_decoder": True}
_TYPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
         "rembert", "roberta", "roberta-prelayernorm", "roformer", "xlm-roberta", "xlm-roberta-xl"),
        _CAUSAL,
    ),
    "axk1": {"head_dim": 8},
    "bamba": {"attn_layer_indices": [1, 3], "mamba_n_heads": 4},
    "deepseek_v2": {"num_experts_per_tok": 2, "head_dim": 8, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {"head_dim": 8},
    "mimo_v2_flash": {"head_dim": HEAD, "v_head_dim": HEAD, "num_key_value_heads": 1},  # twice as many in a window
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1},
    "gemma3n_text": {"intermediate_size": [64] * LAYERS, "activation_sparsity_pattern": [0.0] * LAYERS,
                     "num_kv_shared_layers": 2, "laurel_rank": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"num_attention_heads_per_layer": [HEADS] * LAYERS},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "nemotron": {"num_key_value_heads": 1},
    "qwen2_5_vl": {
        "text_config": {"rope_parameters": {"mrope_section": [2, 3, 3]}},
        "vision_config": {"depth": 2, "out_hidden_size": HIDDEN, "fullatt_block_indexes": [1]},
    },
    "roc_bert": {**_CAUSAL, "shape_vocab_size": 300, "pronunciation_vocab_size": 300},
    "xlm": {"n_words": VOCABULARY, "emb_dim": HIDDEN, "causal": True},
    "xlnet": {"d_head": HEAD},
    "xmod": {**_CAUSAL, "default_language": "en_XX"},
    "youtu": {"head_dim": 8, "pad_token_id": None},
    "zamba": {"attention_hidden_size": 2 * HIDDEN, "attention_head_dim": HIDDEN},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
_ABSENT = ("per_layer_config", "attention_layers", "model_type")


# what is not walked through by the tests, of transformers 5.24, and why
NO_TINY = "no small config of it is made here"
NOT_CAUSAL = "its forward pass is not causal"
OTHER_FORM = "held in another form than stored, so it is merged to disk alone"
LEFT_OUT = {
    **dict.fromkeys(
        ("blt", "cohere_compass_text", "dbrx", "dory", "dots3_note", "gemma3n", "gemma4_assistant",
         "gemma4_unified_assistant", "longcat_flash", "qwen4_exp", "qwen4_exp_text", "reformer", "xlstm", "zamba2"),
        NO_TINY,
    ),
    **dict.fromkeys(("cpmant", "xlnet"), NOT_CAUSAL),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "it has an encoder beside its decoder"),
    **dict.fromkeys(("hrm_text", "inkling2_loop_text", "inkling2_text", "lara_mini", "sarvam_moe"), OTHER_FORM),
    "deepseek_v4": "transformers maps one of its names to none of its tensors",
}  # fmt: skip


def tiny_config(model_type: str, architecture: str = "", **more: Any) -> Any:
    """A small config of a type of model, as transformers calls it.

    Args:
        model_type: of the model.
        architecture: its class, where that may want no more of the type's config than that of its text model.
        more: settings.
    """
    import transformers

    kind = type(transformers.AutoConfig.for_model(model_type))
    if architecture:
        kind = getattr(transformers, architecture).config_class
        model_type = kind.model_type
    content = _within(_shrunk(kind().to_dict()), _TYPES.get(model_type, {}))
    return kind.from_dict({**content, **more})


def _within(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with ``changes``, which may be of mappings inside it."""
    inner = {
        key: _within(content[key], value)
        for key, value in changes.items()
        if isinstance(value, Mapping) and isinstance(content.get(key), Mapping)
    }
    return {**content, **changes, **inner}


def _shrunk(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        if name in _ABSENT:
            continue
        if isinstance(value, Mapping) and ("config" in name):
            found[name] = _shrunk(value)
        elif isinstance(value, list) and _LISTS.fullmatch(name):
            found[name] = _spread(value)
        elif value is not None or name in ("pad_token_id", "head_dim"):
            found[name] = next(
                (
                    small
                    for pattern, small in _SMALL
                    if re.fullmatch(pattern, name) and not isinstance(value, (list, bool, float))
                ),
                value,
            )
    return found


def _spread(kinds: list[Any]) -> list[Any]:
    """As many as there are layers, every kind among them, the rarest last."""
    distinct = list(dict.fromkeys(kinds))
    return [distinct[n % len(distinct)] for n in range(LAYERS)]


def decoders() -> dict[str, str]:
    """Type of model -> class, of those that transformers calls causal and that have no encoder."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = {}
    for model_type, named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        config = CONFIG_MAPPING[model_type]
        if not getattr(config, "is_encoder_decoder", False):
            found[model_type] = named if isinstance(named, str) else named[0]
    return found


def tiny_members(
    folder: Path,
    model_type: str,
    architecture: str,
    names: Sequence[str] = ("base", "a", "b"),
    **more: Any,
) -> dict[str, Path]:
    """A random base and steps away from it, as folders that transformers has written.

    Args:
        folder: where to make one folder a name.
        model_type: as transformers calls it.
        architecture: the class.
        names: the base first.
        more: settings of the config.
    """
    import torch
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(tiny_config(model_type, architecture, **more))
        return _steps(model, folder, names)


def _steps(model: Any, folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Folders of ``model``, each a step further, drawn from torch's own generator."""
    import torch

    tokenizer, made = byte_tokenizer(), {}
    for name in names:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(STEP * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        made[name] = folder / name
    return made


def text_members(
    folder: Path, wrapper: Path, architecture: str, names: Sequence[str] = ("base", "math")
) -> dict[str, Path]:
    """Text models a step away from the language model of a vision model, and from one another, as folders.

    Args:
        folder: where to make one folder a name.
        wrapper: the vision model.
        architecture: of the text models.
        names: of the folders.
    """
    import torch
    import transformers

    around = transformers.AutoModelForImageTextToText.from_pretrained(wrapper)
    kind = getattr(transformers, architecture)
    config = around.config.get_text_config().to_dict()
    del config["model_type"]
    if "mrope_section" in (config.get("rope_parameters") or {}):
        config["rope_parameters"].pop("mrope_section")
    model = kind(kind.config_class.from_dict(config))
    language = getattr(around.model, "language_model", None) or around.model.text_model
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.model.load_state_dict(language.state_dict())
        model.lm_head.weight.data.copy_(around.lm_head.weight)
        return _steps(model, folder, names)
