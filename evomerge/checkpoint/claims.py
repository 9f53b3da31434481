"""Which tensor of a model each stored one is: every stored tensor is claimed once, and none is missing.

A stored tensor is claimed by its name, or by the name that transformers gives it when it loads the file. Rotary
tables and the like follow from the config and are left out. What the model's class leaves out though it holds
weights (heads that predict further tokens) belongs to another tower and goes along. All else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoint.header import Entry
from evomerge.checkpoint.weights import listed
from evomerge.errors import CheckpointError, Incompatible
from evomerge.skeleton import Part, Skeleton, computed
from evomerge.tensors import Place


@dataclass(frozen=True)
class Claims:
    """What a model's files hold.

    Attributes:
        stored: the name of a tensor -> what the files call it.
        parts: by name, those of ``stored`` and those tied to one.
    """

    stored: Mapping[str, str]
    parts: Mapping[str, Part]


def claim(
    name: str, config: Mapping[str, Any], skeleton: Skeleton, entries: Mapping[str, Entry]
) -> Claims:
    """The claims on what the model called ``name`` stores.

    Raises:
        CheckpointError: a tensor is missing, belongs to no part of the model, or has another shape.
        Incompatible: as ``Skeleton.of``.
    """
    stored = {each: each for each in entries if each in skeleton.parts}
    rest = [each for each in entries if each not in skeleton.parts and not computed(each)]
    missing = _missing(skeleton, stored)
    if rest and missing:
        from evomerge.skeleton.conversion import loaded_as
        from evomerge.skeleton.modules import meta_model

        wanted = set(missing)
        for own, known in loaded_as(meta_model(config, name), rest).items():
            if known in wanted:
                stored[known] = own
        claimed = set(stored.values())
        rest = [each for each in rest if each not in claimed]
        missing = _missing(skeleton, stored)
    parts = dict(skeleton.parts)
    for each in (n for n in rest if any(re.search(p, n) for p in skeleton.extras)):
        stored[each] = each
        place = Place(None, "tower", skeleton.layers, "", each, each)
        parts[each] = Part(entries[each].shape, place)
    rest = [each for each in rest if each not in parts]
    if missing:
        raise CheckpointError(
            f"{name}: its files lack {listed(missing)} of the {config['architectures'][0]} that config.json "
            "describes; copy or download the model again"
        )
    if rest:
        raise CheckpointError(
            f"{name}: its files hold {listed(rest)}, which no {config['architectures'][0]} of transformers has; "
            "a merge would lose it. Is config.json that of these weights?"
        )
    for each, own in stored.items():
        _check_shape(name, each, entries[own].shape, parts[each])
    return Claims({each: stored[each] for each in parts if each in stored}, parts)


def _missing(skeleton: Skeleton, stored: Collection[str]) -> list[str]:
    return [each for each, part in skeleton.parts.items() if each not in stored and not part.tied]


def _check_shape(name: str, tensor: str, found: tuple[int, ...], part: Part) -> None:
    # embeddings may be padded: how many rows there are, the file says
    own = slice(1, None) if part.by_token else slice(None)
    if len(found) != len(part.shape) or found[own] != part.shape[own]:
        raise Incompatible(
            f"{name}: {tensor} is stored as {list(found)}, and by config.json it is {list(part.shape)}"
        )
