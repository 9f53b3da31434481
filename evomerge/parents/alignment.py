"""Whether models can be merged, and which of their vocabularies' rows stand for the same token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.checkpoint import Checkpoint, same_tokenizer, vocabulary
from evomerge.checkpoint.meaning import differences
from evomerge.errors import Incompatible
from evomerge.parents.kinds import backbone_problems, frame_of
from evomerge.parents.vocabulary import Common, common_vocabulary
from evomerge.tokens import TokenRules


def check_compatible(
    models: Mapping[str, Checkpoint], tokenizer: str | None = None, allow: Sequence[str] = ()
) -> None:
    """Refuse models that cannot be merged into one with the vocabulary of ``tokenizer``.

    For ``allow`` see ``aligned_rows``.
    """
    aligned_rows(models, tokenizer or next(iter(models)), allow)


def aligned_rows(
    models: Mapping[str, Checkpoint],
    tokenizer: str,
    allow: Sequence[str] = (),
    rules: TokenRules | None = None,
) -> tuple[Common, dict[str, list[int] | None]]:
    """The vocabulary of ``tokenizer``, with what ``rules`` add, and which row of each model stands where in it.

    Args:
        models: by name.
        tokenizer: one of them; it decides whose kind and config a merge has, see ``kinds.frame_of``.
        allow: topics of configs that may differ, see ``checkpoint.meaning``.

    Returns:
        The vocabulary, and model -> row numbers as ``matching_rows`` gives them, or None if nothing moves.

    Raises:
        Incompatible: models differ in their backbones, depth, tensors, shapes or meaning of their
            configs, or in vocabularies that have no ``tokenizer.json`` to align them by; or no tokenizer
            has the tokens of all.
    """
    first_name = frame_of(models, tokenizer)
    first = models[first_name]
    problems: list[str] = []
    for name, model in models.items():
        if model is first:
            continue
        pair = _pair(name, model, first_name, first)
        if model.layers != first.layers:
            problems.append(f"{pair}: depths differ: {model.layers} and {first.layers} layers")
        else:
            alike = model.architecture == first.architecture
            differing = _differences(model, first) if alike else backbone_problems(first, model)
            differing = differing or _other_meanings(model, first, first_name, allow)
            problems += [f"{pair}: {difference}" for difference in differing]
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
                    f"{name} ({model.name}) and {tokenizer} ({donor.name}): vocabularies differ: {model.embedding} has "
                    f"{model.height} and {donor.height} rows, and {lacking} has no tokenizer.json to align "
                    "them by"
                )
    if problems:
        raise Incompatible("these models cannot be merged:\n  " + "\n  ".join(problems))
    return common, rows


def _differences(model: Checkpoint, first: Checkpoint) -> list[str]:
    ours, theirs = (
        {n for n in m.names if n not in model.ties and n not in first.ties} for m in (model, first)
    )
    if differing := sorted(ours ^ theirs):
        return [f"tensors differ: only one has {differing[0]!r} ({len(differing)} in all)"]
    for name in first.names:
        if name not in ours:
            continue
        shape, first_shape = model.entry(name).shape, first.entry(name).shape
        if model.by_token(name) and (shape[0], first_shape[0]) == (model.height, first.height):
            shape_of_one, shape_of_other = shape[1:], first_shape[1:]
        else:
            shape_of_one, shape_of_other = shape, first_shape
        if shape_of_one != shape_of_other:
            return [f"shapes differ: {name} is {shape} and {first_shape}"]
    return []


def _other_meanings(
    model: Checkpoint, first: Checkpoint, first_name: str, allow: Sequence[str]
) -> list[str]:
    """What gives the same weights another meaning in the two, but for the topics of ``allow``."""
    return [
        f"config.json differs in {found.topic}: {found}; so the same weights mean another function. To merge "
        f"them all the same, under the config of {first_name}: `allow: [{found.topic}]` in the recipe, or under "
        f"`models` in run.yaml, or --allow {found.topic}"
        for found in differences(model.config, first.config)
        if found.grave and found.topic not in allow
    ]


def config_notes(models: Mapping[str, Checkpoint], first_name: str) -> list[str]:
    """How the configs of models that may be merged with ``first_name`` differ all the same, a line for each."""
    first = models[first_name]
    notes = []
    for name, model in models.items():
        for found in differences(model.config, first.config):
            about = f" in {found.topic}" if found.topic else ""
            but = "" if found.topic else ", which may or may not matter"
            notes.append(
                f"{_pair(name, model, first_name, first)}: config.json differs{about}: {found}{but}; the merge "
                f"has what {first_name} says"
            )
    return notes


def tokenizer_notes(models: Mapping[str, Checkpoint], tokenizer: str) -> list[str]:
    """Which models' rows are taken for those of the tokenizer's, though nothing says that they are."""
    donor = models[tokenizer]
    return [
        f"{_pair(name, model, tokenizer, donor)}: their tokenizers cannot be compared: "
        f"{_lacking(name, model, tokenizer)} has no tokenizer.json; rows of one number are taken for one token"
        for name, model in models.items()
        if model is not donor
        and model.height == donor.height
        and not same_tokenizer(model, donor)
        and not (vocabulary(model) and vocabulary(donor))
    ]


def _lacking(name: str, model: Checkpoint, tokenizer: str) -> str:
    """Which of two models has no vocabulary to compare."""
    return tokenizer if vocabulary(model) else name


def _pair(name: str, model: Checkpoint, other_name: str, other: Checkpoint) -> str:
    return f"{name} ({model.name}) and {other_name} ({other.name})"
