"""The config of a model that consists of other blocks than its own: some twice, some left out, in another order."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import Incompatible
from evomerge.skeleton import Skeleton
from evomerge.skeleton.modules import model_class, own_config, quiet

_DEPTH = "num_hidden_layers"
_NOT_BY_BLOCK = ("architectures",)  # nor token ids


def of_blocks(config: Mapping[str, Any], blocks: Sequence[int], where: str) -> dict[str, Any]:
    """The ``config.json`` of a model with these ``blocks`` of the one that ``config`` describes.

    Lists that say something of each block follow them. Where a block would not be of the kind it is (a config
    that numbers the layers with a window, say), there is no such config.

    Raises:
        Incompatible: so it is, or the model has no such block.
    """
    own = Skeleton.of(config, where)
    if beyond := [block for block in blocks if block >= own.layers]:
        raise Incompatible(
            f"{where}: has no layer {beyond[0]}: there are {own.layers}, numbered from 0"
        )
    content = copy.deepcopy(dict(config))
    if list(blocks) == list(range(own.layers)):
        return content
    inner = content.get("text_config")
    text = inner if isinstance(inner, dict) else content
    kind = model_class(content, where)
    with quiet():
        effective = own_config(kind, content).get_text_config()
    said = effective.to_dict()
    text[effective.attribute_map.get(_DEPTH, _DEPTH)] = len(blocks)
    for key, value in said.items():
        by_block = isinstance(value, list) or (isinstance(value, str) and key.endswith("pattern"))
        if not by_block or len(value) != own.layers or key in _NOT_BY_BLOCK or "token_id" in key:
            continue
        found = [value[block] for block in blocks]
        text[key] = "".join(found) if isinstance(value, str) else found
    made = Skeleton.of(content, where)
    wanted = [own.kinds[block] for block in blocks]
    if list(made.kinds) != wanted:
        at = next(
            (
                n
                for n, pair in enumerate(zip(made.kinds, wanted, strict=False))
                if len(set(pair)) > 1
            ),
            0,
        )
        raise Incompatible(
            f"{where}: layer {blocks[at]} cannot be layer {at} of another model: the config says by the number of a "
            "layer what it is (which have a window, experts, positions), and has no list of that"
        )
    return content
