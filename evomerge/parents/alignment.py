"""Whether models can be merged, and which of their vocabularies' rows stand for the same token."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge import tensors
from evomerge.checkpoint import Checkpoint, vocabulary
from evomerge.errors import Incompatible
from evomerge.parents.vocabulary import Common, common_vocabulary
from evomerge.tokens import TokenRules

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


def check_compatible(models: Mapping[str, Checkpoint], tokenizer: str | None = None) -> None:
    """Refuse models that cannot be merged into one with the vocabulary of ``tokenizer``."""
    aligned_rows(models, tokenizer or next(iter(models)))


def aligned_rows(
    models: Mapping[str, Checkpoint], tokenizer: str, rules: TokenRules | None = None
) -> tuple[Common, dict[str, list[int] | None]]:
    """The vocabulary of ``tokenizer``, with what ``rules`` add, and which row of each model stands where in it.

    Returns:
        The vocabulary, and model -> row numbers as ``matching_rows`` gives them, or None if nothing moves.

    Raises:
        Incompatible: models differ in architecture, depth, tensors, shapes or meaning of their
            configs, or in vocabularies that have no ``tokenizer.json`` to align them by; or no tokenizer
            has the tokens of all.
    """
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
    if not problems:
        common = common_vocabulary(models, tokenizer, rules)
        rows: dict[str, list[int] | None] = {}
        for name, model in models.items():
            try:
                rows[name] = common.rows_of(model)
            except LookupError:
                donor = common.model
                lacking = name if not vocabulary(model) else tokenizer
                problems.append(
                    f"{name} ({model.name}) and {tokenizer} ({donor.name}): vocabularies differ: "
                    f"{model.embedding} has {model.height} and {donor.height} rows, and {lacking} has "
                    "no tokenizer.json to align them by"
                )
    if problems:
        raise Incompatible("these models cannot be merged:\n  " + "\n  ".join(problems))
    return common, rows


def _differences(model: Checkpoint, first: Checkpoint) -> list[str]:
    ours, theirs = (
        {n for n in m.names if not tensors.ignored(n, tied=model.tied or first.tied)}
        for m in (model, first)
    )
    if differing := sorted(ours ^ theirs):
        return [f"tensors differ: only one has {differing[0]!r} ({len(differing)} in all)"]
    for name in first.names:
        if name not in ours:
            continue
        shape, first_shape = model.entry(name).shape, first.entry(name).shape
        if by_token(name) and (shape[0], first_shape[0]) == (model.height, first.height):
            shape_of_one, shape_of_other = shape[1:], first_shape[1:]
        else:
            shape_of_one, shape_of_other = shape, first_shape
        if shape_of_one != shape_of_other:
            return [f"shapes differ: {name} is {shape} and {first_shape}"]
    for key in SAME_CONFIG:
        mine, other = model.config.get(key), first.config.get(key)
        if mine is not None and other is not None and mine != other:
            return [f"config.json differs: {key} is {mine!r} and {other!r}"]
    return []


def by_token(name: str) -> bool:
    """True if the rows of ``name`` belong to tokens."""
    return tensors.place_of(name).role in ("embed", "head")
