"""The models of a recipe, opened and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge import tensors
from evomerge.checkpoint import Checkpoint, read_json
from evomerge.errors import Incompatible
from evomerge.recipe import BASE, Recipe

# what gives the same weights another meaning
SAME_CONFIG = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
)


class Sources:
    """The opened models of a recipe: checked against each other once, read by every candidate.

    Raises:
        CheckpointError: a model cannot be read.
        Incompatible: models that cannot be merged, with every difference named.
    """

    def __init__(self, models: Mapping[str, Checkpoint]) -> None:
        self.models = dict(models)
        self.first = next(iter(self.models.values()))
        check_compatible(self.models)

    @classmethod
    def open(cls, recipe: Recipe) -> Sources:
        """Open what ``recipe`` reads (and the model whose tokenizer it takes)."""
        wanted = [
            name for name in (BASE, *recipe.models) if name in (*recipe.used, recipe.tokenizer)
        ]
        return cls({name: Checkpoint.open(recipe.ref(name)) for name in wanted})

    @property
    def names(self) -> tuple[str, ...]:
        return self.first.names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.first.entry(name).shape


def check_compatible(models: Mapping[str, Checkpoint]) -> None:
    """Refuse models that differ in architecture, depth, tensors, shapes or vocabulary."""
    (first_name, first), *others = models.items()
    problems: list[str] = []
    for name, model in others:
        pair = f"{name} ({model.name}) and {first_name} ({first.name})"
        if model.architecture != first.architecture:
            problems.append(
                f"{pair}: architectures differ: {model.architecture} and {first.architecture}"
            )
        elif model.layers != first.layers:
            problems.append(f"{pair}: depths differ: {model.layers} and {first.layers} layers")
        else:
            problems += [f"{pair}: {difference}" for difference in _differences(model, first)]
    if problems:
        raise Incompatible("these models cannot be merged:\n  " + "\n  ".join(problems))


def _differences(model: Checkpoint, first: Checkpoint) -> list[str]:
    missing = [n for n in first.names if n not in set(model.names)]
    extra = [n for n in model.names if n not in set(first.names)]
    if missing or extra:
        which = f"{(missing or extra)[0]!r} ({len(missing) + len(extra)} in all)"
        tied = " (one ties its output head to the embedding, the other does not)" * (
            "lm_head.weight" in missing + extra
        )
        return [f"tensors differ: only one has {which}{tied}"]
    for name in first.names:
        shape, first_shape = model.entry(name).shape, first.entry(name).shape
        if shape != first_shape:
            rows = tensors.place_of(name).role in ("embed", "head") and shape[0] != first_shape[0]
            what = "vocabularies" if rows else "shapes"
            return [f"{what} differ: {name} is {shape} and {first_shape}"]
    for key in SAME_CONFIG:
        ours, theirs = model.config.get(key), first.config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            return [f"config.json differs: {key} is {ours!r} and {theirs!r}"]
    tokens, known = vocabulary(model), vocabulary(first)
    if tokens and known:
        at = {row: token for token, row in known.items()}
        # a token in a row that the other leaves unused moves no meaning
        moved = [t for t, row in tokens.items() if known.get(t, row) != row or at.get(row, t) != t]
        if moved:
            return [
                f"vocabularies differ: {len(moved)} tokens have other rows, for example {moved[0]!r}"
            ]
    return []


def vocabulary(model: Checkpoint) -> dict[str, int]:
    """Token -> row, from the model's ``tokenizer.json``; empty if it has none."""
    path = model.folder / "tokenizer.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    vocab = content.get("model", {}).get("vocab", {})
    tokens = (
        dict(vocab) if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
    )
    tokens.update({token["content"]: token["id"] for token in content.get("added_tokens", [])})
    return tokens


def special_tokens(model: Checkpoint) -> dict[str, Any]:
    """The token ids (bos, eos, pad, ...) in a model's config."""
    return {key: value for key, value in model.config.items() if key.endswith("_token_id")}
