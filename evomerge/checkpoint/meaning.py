"""What a ``config.json`` means: the settings under which weights are what they are.

Two configs may differ in every key and mean one function, or in one absent key and mean two. So they are compared
as transformers reads them, and every setting that gives weights their meaning stands under a topic, in one
spelling. What belongs to no topic and is not known to be harmless is told apart, for a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evomerge.checkpoint.effective import Config, Effective
from evomerge.config import shown

Values = dict[str, Any]

ROPE, WINDOW, EPSILON = "rope", "window", "epsilon"
MOST_SHOWN = 6  # settings of one difference
SMALL_EPSILON = 1e-4  # far below the mean square of activations: one such stands for another

# the settings that have one name, by topic; what is None, False or, of a multiplier, 1 is as if it were absent
_NAMED: dict[str, tuple[str, ...]] = {
    "attention_scale": (
        *("query_pre_attn_scalar", "attention_multiplier", "scale_attn_weights", "softmax_scale"),
        *("scale_attn_by_inverse_layer_idx", "attn_temperature_tuning", "attn_scale", "floor_scale"),
        *("log_scaling_alpha", "log_scaling_n_floor"),
    ),
    "multipliers": (
        *("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"),
        *("lm_head_multiplier", "key_multiplier", "attention_in_multiplier", "attention_out_multiplier"),
        *("mlp_multipliers", "ssm_multipliers", "ssm_in_multiplier", "ssm_out_multiplier"),
        *("scale_embedding", "scale_emb", "scale_depth", "dim_model_base", "embedding_scale"),
    ),
    "soft_cap": (
        *("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap"),
        *("attention_logits_soft_cap", "clip_qkv", "swiglu_limit"),
    ),
    "experts": (
        *("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "norm_topk_prob"),
        *("routed_scaling_factor", "n_group", "topk_group", "topk_method", "scoring_func"),
        *("decoder_sparse_step", "mlp_only_layers", "moe_layer_freq", "first_k_dense_replace"),
    ),
    "block": (
        *("use_parallel_residual", "parallel_attn", "parallel_residual", "new_decoder_architecture"),
        *("apply_residual_connection_post_layernorm", "do_layer_norm_before", "alibi"),
        *("use_qk_norm", "qk_layernorm", "qk_norm"),
    ),
}  # fmt: skip

# a setting -> its spellings, the first of which it is called by here
_HEADS = {
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim", "attention_head_dim", "kv_channels"),
    "qk_rope_head_dim": ("qk_rope_head_dim",),
    "qk_nope_head_dim": ("qk_nope_head_dim",),
    "v_head_dim": ("v_head_dim",),
}
_WIDTH = ("hidden_size", "n_embd", "d_model")
_EPSILON = (
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"),
    *("layernorm_epsilon", "rms_norm_epsilon", "layernorm_eps"),
)
_ACTIVATION = (
    *("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "activation"),
    "ffn_act",
)
# names of one function: the formulas are equal, up to the rounding of their results
_SAME_FUNCTION = {
    "swish": "silu",
    "gelu_python": "gelu",
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_pytorch_tanh"
    ),
}
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
_WINDOW = (
    *("sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern"),
    *("_sliding_window_pattern", "layer_types", "attention_chunk_size", "use_bidirectional_attention"),
)  # fmt: skip
_FULL, _SLIDING = "full_attention", "sliding_attention"

_THETA = ("rope_theta", "rotary_emb_base", "rotary_embedding_base", "rope_base")
_PARTIAL = ("partial_rotary_factor", "rotary_pct", "rope_pct")
_LOCAL_THETA = "rope_local_base_freq"
_PRETRAINED = "original_max_position_embeddings"
_ROPE_MORE = (
    *("rope_interleave", "rope_interleaved", "no_rope_layers", "no_rope_layer_interval"),
    *("rotary_dim", "nope_layer_interval", "position_embedding_type"),
)
_ROPE = (*_THETA, *_PARTIAL, _LOCAL_THETA, _PRETRAINED, *_ROPE_MORE, "rope_scaling", "rope_parameters")  # fmt: skip
_DEFAULT_THETA = 10_000.0
_PLAIN = "default"  # the type of no scaling
_ROPE_TYPES = {"su": "longrope", "mrope": _PLAIN, "None": _PLAIN}  # as transformers reads old names
_ROPE_DEFAULTS: dict[str, Values] = {"yarn": {"beta_fast": 32, "beta_slow": 1, "truncate": True}}
_SECTIONS = ("mrope_section", "mrope_interleaved")  # of positions that have several dimensions
_SCALES_BY_FACTOR = ("linear", "llama3")  # by 1 they scale nothing
_FROM_LENGTH = ("dynamic", "yarn", "llama3", "longrope")  # that depend on the length of pretraining

# what changes training, storage, generation or the size of what is there, not what weights mean
_HARMLESS = {
    *("architectures", "model_type", "auto_map", "transformers_version", "name_or_path"),
    *("dtype", "torch_dtype", "quantization_config", "vocab_size", "max_position_embeddings"),
    *("tie_word_embeddings", "use_cache", "initializer_range", "initializer_factor", "init_std"),
    *("pretraining_tp", "gradient_checkpointing", "return_dict", "is_decoder", "torchscript"),
    *("id2label", "label2id", "num_labels", "problem_type", "task_specific_params", "finetuning_task"),
    *("attn_implementation", "use_flash_attn", "use_bfloat16", "use_return_dict", "model_max_length"),
    *("router_aux_loss_coef", "output_router_logits", "router_jitter_noise", "max_sequence_length"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "do_sample"),
    *("num_beams", "num_beam_groups", "max_length", "min_length", "no_repeat_ngram_size", "bad_words_ids"),
    *("num_return_sequences", "early_stopping", "diversity_penalty", "prefix", "suppress_tokens"),
    *("begin_suppress_tokens", "chunk_size_feed_forward", "tokenizer_class", "pruned_heads"),
}  # fmt: skip
_HARMLESS_BEGIN = ("_", "output_", "unsloth")
_HARMLESS_END = ("_token_id", "_token_index", "dropout", "_dropout_prob", "_pdrop")


@dataclass(frozen=True)
class Difference:
    """What two configs say of one thing.

    Attributes:
        topic: what it belongs to; empty where nothing is known of it.
        mine, theirs: setting -> value, of the settings that differ.
        grave: whether the same weights mean another function.
    """

    topic: str
    mine: Config
    theirs: Config
    grave: bool

    def __str__(self) -> str:
        told = [
            f"{key} is {_shown(self.mine[key])} and {_shown(self.theirs[key])}" for key in self.mine
        ]
        more = [f"and {len(told) - MOST_SHOWN} more"] if len(told) > MOST_SHOWN else []
        return ", ".join(told[:MOST_SHOWN] + more)


def differences(mine: Config, theirs: Config) -> list[Difference]:
    """How two configs of one architecture differ in what they mean: by topic, then what is in none.

    Windows are compared over the lengths that both can read: one that is longer cuts nothing. Of two
    architectures only the language models are compared: what is around these differs.
    """
    one_kind = mine.get("architectures") == theirs.get("architectures")
    if _alike(_read_by_eye(mine), _read_by_eye(theirs)):
        return []
    ours, other = Effective.of(mine), Effective.of(theirs)
    if not one_kind:
        ours, other = _of_text(ours), _of_text(other)
    length = min(_length(ours), _length(other))
    found = [
        _difference(topic, meaning(ours, length), meaning(other, length))
        for topic, meaning in MEANINGS.items()
    ]
    found.append(_difference("", _rest(ours), _rest(other)))
    return [each for each in found if each.mine]


def _of_text(effective: Effective) -> Effective:
    """What matters for texts alone: their positions have one dimension, and turn as in a model that knows no other."""

    def flat(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: flat(inner) for name, inner in value.items() if name not in _SECTIONS}

    ropes = {key: flat(effective.text.get(key)) for key in ("rope_scaling", "rope_parameters")}
    return replace(effective, text={**effective.text, **ropes}, around={})


def meanings(config: Config) -> dict[str, Values]:
    """Topic -> what a config says of it, setting by setting, in one spelling and with defaults."""
    effective = Effective.of(config)
    length = _length(effective)
    return {topic: meaning(effective, length) for topic, meaning in MEANINGS.items()}


def _difference(topic: str, mine: Values, theirs: Values) -> Difference:
    """Of settings, where None is as if it were absent."""
    keys = [k for k in {**mine, **theirs} if not _alike(mine.get(k), theirs.get(k))]
    large = topic != EPSILON or _large(mine) or _large(theirs)
    ours, other = ({key: side.get(key) for key in keys} for side in (mine, theirs))
    return Difference(topic, ours, other, grave=bool(topic) and large)


def _length(effective: Effective) -> float:
    """Tokens that a model can read, at most."""
    length = _number(effective.text.get("max_position_embeddings"))
    if length is None:
        return float("inf")
    scaling = effective.text.get("rope_scaling") or effective.text.get("rope_parameters")
    factor = _number(scaling.get("factor")) if isinstance(scaling, Mapping) else None
    return length * max(1.0, factor or 1.0)


def _rest(effective: Effective) -> Values:
    """The settings that no topic covers, or covers without their being read, but for the harmless."""
    found = {**effective.around, **effective.text}
    return {
        key: value
        for key, value in found.items()
        if not _settled(key) or (key in _IF_READ and not effective.reads(key))
    }


# -- topics --------------------------------------------------------------------------------------


def _rope(effective: Effective, length: float) -> Values:
    """Theta, scaling and what else turns; by layer type where those differ."""
    text = effective.text
    theta = effective.setting(_THETA)
    outer: Values = {
        "rope_theta": _DEFAULT_THETA if theta is None else theta,
        "partial_rotary_factor": effective.setting(_PARTIAL),
        _PRETRAINED: text.get(_PRETRAINED) or text.get("max_position_embeddings"),
    }
    given = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        return {"rope_scaling": given}
    nested = {name: each for name, each in given.items() if isinstance(each, Mapping)}
    if not nested and text.get(_LOCAL_THETA) is not None:
        nested = {_FULL: given, _SLIDING: {"rope_theta": text[_LOCAL_THETA]}}
    layers = text.get("layer_types")
    if nested and isinstance(layers, list):
        nested = {name: each for name, each in nested.items() if name in layers} or nested
    each = {name: _turns(inner, outer) for name, inner in (nested or {"": given}).items()}
    found, *others = each.values()
    if others and not all(_alike(found, other) for other in others):
        found = {f"{name}.{key}": v for name, part in each.items() for key, v in part.items()}
    return {**found, **{name: text[name] for name in _ROPE_MORE if text.get(name)}}


def _turns(given: Config, outer: Config) -> Values:
    """One rope in one spelling: what ``given`` says of it, else what stands ``outer``."""
    kind = given.get("rope_type", given.get("type"))
    kind = _ROPE_TYPES.get(str(kind), str(kind))
    if kind in _SCALES_BY_FACTOR and given.get("factor") == 1:
        kind = _PLAIN
    own = {key: value for key, value in given.items() if key not in ("rope_type", "type")}
    if kind == _PLAIN:
        own = {k: v for k, v in own.items() if k in (*outer, *_SECTIONS)}
    if kind not in _FROM_LENGTH:
        own.pop(_PRETRAINED, None)
        outer = {key: value for key, value in outer.items() if key != _PRETRAINED}
    found = {"rope_type": kind, **outer, **_ROPE_DEFAULTS.get(kind, {})}
    found.update({key: value for key, value in own.items() if value is not None})
    if found.get("partial_rotary_factor") == 1:
        found["partial_rotary_factor"] = None
    return {key: value for key, value in found.items() if value is not None}


def _window(effective: Effective, length: float) -> Values:
    """Which layers see how far back, where that is less than ``length`` tokens."""
    count = effective.get("num_hidden_layers")
    count = count if isinstance(count, int) and 0 < count < 10_000 else 1
    kinds = effective.get("layer_types")
    if isinstance(kinds, list):
        kinds = [str(kind) for kind in kinds]
    else:
        begin = effective.get("max_window_layers") if effective.get("use_sliding_window") else 0
        begin = begin if isinstance(begin, int) else 0
        kinds = [_FULL if layer < begin else _SLIDING for layer in range(count)]
    sizes = {kind: _number(effective.get(name)) for kind, name in _WINDOWS.items()}
    if effective.get("use_sliding_window") is False:
        sizes[_SLIDING] = None
    cuts = {kind: size for kind, size in sizes.items() if size and size < length and kind in kinds}
    kinds = [_FULL if kind in _WINDOWS and kind not in cuts else kind for kind in kinds]
    return {
        **{_WINDOWS[kind]: size for kind, size in cuts.items()},
        **({"layer_types": kinds} if set(kinds) != {_FULL} else {}),
        **({"use_bidirectional_attention": True} if effective.get("use_bidirectional_attention") else {}),
    }  # fmt: skip


def _heads(effective: Effective, length: float) -> Values:
    found = {name: effective.setting(spellings) for name, spellings in _HEADS.items()}
    heads, width = found["num_attention_heads"], effective.setting(_WIDTH)
    if found["num_key_value_heads"] is None:
        found["num_key_value_heads"] = heads
    if found["head_dim"] is None and isinstance(heads, int) and isinstance(width, int) and heads:
        found["head_dim"] = width // heads
    return {name: value for name, value in found.items() if value is not None}


def _activation(effective: Effective, length: float) -> Values:
    name = effective.setting(_ACTIVATION)
    return {_ACTIVATION[0]: _SAME_FUNCTION.get(name, name) if isinstance(name, str) else name}


def _epsilon(effective: Effective, length: float) -> Values:
    return {_EPSILON[0]: effective.setting(_EPSILON)}


def _named(topic: str) -> Callable[[Effective, float], Values]:
    def meaning(effective: Effective, length: float) -> Values:
        found = {name: effective.get(name) for name in _NAMED[topic]}
        one = 1 if topic == "multipliers" else None
        return {
            name: value
            for name, value in found.items()
            if value is not None and value is not False and (value is True or value != one)
        }

    return meaning


MEANINGS: dict[str, Callable[[Effective, float], Values]] = {
    ROPE: _rope,
    WINDOW: _window,
    "heads": _heads,
    "activation": _activation,
    EPSILON: _epsilon,
    **{topic: _named(topic) for topic in _NAMED},
}
TOPICS = tuple(MEANINGS)
_COVERED = {
    *(*_ROPE, *_WINDOW, *_EPSILON, *_ACTIVATION),
    *(name for spellings in _HEADS.values() for name in spellings),
    *(name for names in _NAMED.values() for name in names),
}
_IF_READ = {*_WINDOWS.values(), *(name for names in _NAMED.values() for name in names)}


# -- keys ----------------------------------------------------------------------------------------


def _settled(key: str) -> bool:
    """True if nothing need be said of a key: a topic covers it, or it is harmless."""
    return (
        key in _COVERED
        or key in _HARMLESS
        or key.startswith(_HARMLESS_BEGIN)
        or key.endswith(_HARMLESS_END)
    )


def _read_by_eye(config: Config) -> Values:
    """The keys that could matter: where these are equal, nothing else need be known."""
    kept = {"model_type", "max_position_embeddings"}
    return {k: v for k, v in config.items() if k in kept or k in _COVERED or not _settled(k)}


def _number(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if plain else None


def _alike(mine: Any, theirs: Any) -> bool:
    return bool(mine == theirs) or repr(mine) == repr(theirs)  # a NaN is not equal to itself


def _large(epsilon: Values) -> bool:
    value = _number(epsilon.get(_EPSILON[0]))
    return value is None or not value <= SMALL_EPSILON


def _shown(value: Any) -> str:
    return "none" if value is None else shown(value)
