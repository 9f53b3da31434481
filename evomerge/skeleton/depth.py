"""The config of a model that consists of other blocks than its own: some twice, some left out, in another order."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import Incompatible
from evomerge.skeleton import Skeleton, text_part
from evomerge.skeleton.modules import model_class, own_config, quiet

_DEPTH = "num_hidden_layers"
_NOT_BY_BLOCK = ("architectures", "id2label")  # nor token ids


def of_blocks(config: Mapping[str, Any], blocks: Sequence[int], where: str) -> dict[str, Any]:
    """The ``config.json`` of a model with these ``blocks`` of the one that ``config`` describes.

    What says something of each block follows them: lists with an entry a block, lists of numbers of blocks, mappings by
    number, how many come first. Where a block would not be of the kind it is (a config
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
    text: Any = text_part(content)
    kind = model_class(content, where)
    with quiet():
        effective = own_config(kind, content).get_text_config()
    said = effective.to_dict()
    text[effective.attribute_map.get(_DEPTH, _DEPTH)] = len(blocks)
    for key, value in said.items():
        if key not in _NOT_BY_BLOCK and "token_id" not in key:
            found = _by_block(key, value, blocks, own.layers)
            text |= {} if found is None else {key: found}
    made = Skeleton.of(content, where)
    wanted = [own.kinds[block] for block in blocks]
    if len(made.kinds) != len(blocks):
        raise Incompatible(
            f"{where}: a config of {len(blocks)} layers makes a model of {len(made.kinds)}: how many there are is said "
            "otherwise there, too"
        )
    pairs = zip(made.kinds, wanted, strict=True)
    at = next((number for number, (found, kind) in enumerate(pairs) if found != kind), None)
    if at is not None:
        raise Incompatible(
            f"{where}: layer {blocks[at]} cannot be layer {at} of another model: the config says by the number of a "
            "layer what it is (which have a window, experts, positions), by a rule that other layers do not follow"
        )
    there, here = (_outside(each) for each in (own, made))
    if changed := [n for n in (*there, *here) if there.get(n) != here.get(n)]:
        raise Incompatible(
            f"{where}: {changed[0]} has something for each layer, and is not made for other layers than the model's own"
        )
    return content


def _outside(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors outside the blocks."""
    return {n: part.shape for n, part in skeleton.parts.items() if part.place.layer is None}


def _by_block(key: str, value: Any, blocks: Sequence[int], layers: int) -> Any:
    """A setting of a model of ``layers`` blocks, for one of these of them; None where it says nothing of blocks.

    What looks like it and is not, does no harm unseen: what sort each block is then is compared.
    """
    if isinstance(value, str) and key.endswith("pattern") and len(value) == layers:
        return "".join(value[block] for block in blocks)
    if isinstance(value, list) and len(value) == layers:
        return [value[block] for block in blocks]
    if isinstance(value, list) and value and re.search(r"layer|idx|indices", key):
        numbers = all(type(each) is int and 0 <= each < layers for each in value)
        return [at for at, block in enumerate(blocks) if block in value] if numbers else None
    if isinstance(value, Mapping) and value and all(re.fullmatch(r"\d+", str(k)) for k in value):
        known = {int(number): each for number, each in value.items()}
        if max(known) < layers:
            return {str(at): known[block] for at, block in enumerate(blocks) if block in known}
    if type(value) is int and re.search(r"^first_k_|^num_dense_layers$", key):
        return next((at for at, block in enumerate(blocks) if block >= value), len(blocks))
    return None
