"""Models of several kinds: a vision model and a text model, a reward model and the language model it grew from.

They have the blocks, the embedding and the norms between in common: the *backbone*. What they have around it
differs (towers for images, heads), and so does what they call it. The result is of one kind, its frame's: what
another model lacks of it stays as it is there, what another has beyond it is left out.

A tensor of the frame is the tensor of another model that has the same name behind the path where the backbone
lies: ``model.language_model.layers.3.mlp.up_proj.weight`` is ``model.layers.3.mlp.up_proj.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from evomerge.checkpoint import Checkpoint
from evomerge.checkpoint.effective import Effective
from evomerge.tensors import common_path

_AROUND = ("tower", "head")  # roles that one of two kinds may lack
_VISION = re.compile(r"(?:_\d+)?_vl(?=_|$)")


def frame_of(models: Mapping[str, Checkpoint], tokenizer: str) -> str:
    """Whose kind a merge is of: the first that is of the kind of the model whose tokenizer the merge has.

    Args:
        models: by name.
        tokenizer: one of them; of another word, which stands for all of them, the first decides.
    """
    kind = models.get(tokenizer, next(iter(models.values()))).architecture
    return next(name for name, model in models.items() if model.architecture == kind)


def counterparts(frame: Checkpoint, model: Checkpoint) -> dict[str, str]:
    """What a model of another kind calls the tensors of ``frame``, of those that it has; tied ones too."""
    ours, theirs = _apart(_stack(frame), _stack(model))
    known = {*model.names, *model.ties}
    found = {}
    for name in (*frame.names, *frame.ties):
        other = theirs + name.removeprefix(ours) if name.startswith(ours) else name
        if other in known and _fits(frame, name, model, other):
            found[name] = other
    return found


def backbone_problems(frame: Checkpoint, model: Checkpoint) -> list[str]:
    """Why a model of another kind has not the backbone of ``frame``; the first reason, or none."""
    mine, its = text_type(model.config), text_type(frame.config)
    kinds = f"{model.architecture} and {frame.architecture}"
    if mine != its:
        return [f"architectures differ: {kinds}, whose text models are {mine} and {its}"]
    found = counterparts(frame, model)
    lacking = [n for n in frame.names if n not in found and _is_backbone(frame, n)]
    taken = set(found.values())
    beyond = [n for n in model.names if n not in taken and _is_backbone(model, n)]
    if lacking or beyond:
        first, others = (lacking or beyond)[0], len(lacking) + len(beyond)
        whose = frame if lacking else model
        return [
            f"architectures differ: {kinds}, and so do their blocks: only {whose.name} has {first!r} as it is "
            f"there ({others} such tensors in all)"
        ]
    for name, other in found.items():
        shape, wanted = _shape(model, other), _shape(frame, name)
        if shape != wanted:
            return [f"shapes differ: {name} is {wanted}, {other} is {shape}"]
    return []


def kind_notes(
    models: Mapping[str, Checkpoint], frame: str, names: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """What stays as it is, and what is left out, a line each; nothing if all are of one kind.

    Args:
        models: by name.
        frame: whose kind a merge is of.
        names: model of another kind -> its ``counterparts``.
    """
    notes = []
    for model, found in names.items():
        kept = [name for name in models[frame].names if name not in found]
        gone = sorted({*models[model].names} - {*found.values()})
        facts = [
            f"{_listed(kept)} of a {models[frame].architecture} it lacks, and leaves as in {frame}"
            if kept
            else "",
            f"left out of it: {_listed(gone)}" if gone else "",
        ]
        notes.append(
            f"{model} is a {models[model].architecture}, the merge a {models[frame].architecture} as {frame} is: "
            + ("; ".join(filter(None, facts)) or "both have the same tensors")
        )
    return notes


def text_type(config: Mapping[str, Any]) -> str:
    """What transformers calls the language model of a config, the same for one that reads images as well.

    Where that reads text alone, it computes what the plain one does: positions in two dimensions turn as those in
    one do.
    """
    found = str(Effective.of(config).text.get("model_type"))
    return _VISION.sub("", found.removesuffix("_text"))


def _fits(frame: Checkpoint, name: str, model: Checkpoint, other: str) -> bool:
    """Whether tensors that are called alike are the same: around the backbone, they may happen to be."""
    mine, its = frame.place_of(name), model.place_of(other)
    if (mine.layer, mine.role) != (its.layer, its.role):
        return False
    return mine.role not in _AROUND or _shape(frame, name) == _shape(model, other)


def _is_backbone(model: Checkpoint, name: str) -> bool:
    place = model.place_of(name)
    if place.layer is not None:
        return True
    within = _tower(model)
    return place.role not in _AROUND and (not within or name.startswith(f"{within}."))


def _shape(model: Checkpoint, name: str) -> tuple[int, ...]:
    """Of a tensor; the rows of tokens, which may be others, count for one."""
    shape = model.entry(model.read_as(name)).shape
    return (1, *shape[1:]) if model.by_token(name) else shape


def _stack(model: Checkpoint) -> tuple[str, ...]:
    """The path of the blocks on disk."""
    inside = next((place for place in model.places.values() if place.layer is not None), None)
    return tuple(inside.path.partition(".{}.")[0].split(".")) if inside else ()


def _tower(model: Checkpoint) -> str:
    """The path that blocks and embedding have in common."""
    return common_path(".".join(_stack(model)), model.embedding)


def _apart(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, str]:
    """Two paths without the end that they have in common, each with a dot behind unless it is empty."""
    while ours and theirs and ours[-1] == theirs[-1]:
        ours, theirs = ours[:-1], theirs[:-1]
    first, second = ("".join(f"{word}." for word in path) for path in (ours, theirs))
    return first, second


def _listed(names: Collection[str]) -> str:
    first = next(iter(names))
    return repr(first) if len(names) == 1 else f"{first!r} and {len(names) - 1} more"
