"""What a model is made of, read from its config: the tensors that its files hold, with layers, roles and ties.

    modules     the model on the meta device, and where each of its tensors sits
    roles       from a module's class and a tensor's path to its role
    conversion  names on disk for names in memory
    residual    whether what a block adds to the hidden state can be scaled

Building a model of no weights takes a second or so, and transformers some more to be imported; so what was
found is kept in the user's cache, by config and version of transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

from evomerge.cache import cache_folder, name_of
from evomerge.config import write_text
from evomerge.errors import Incompatible
from evomerge.tensors import Place, ordered

VERSION = 8  # of what the cache holds
_version = cache(version)  # it reads all that a package says of itself
# computed from the config; stored by some old checkpoints
_COMPUTED = re.compile(
    r"(?:^|\.)(?:rotary_emb\.\w+|rotary_pos_emb\.\w+|inv_freq|position_ids|masked_bias|attn\.bias|attention\.bias)$"
)
# what makes no difference to the tensors of a model
_PLAIN = re.compile(
    r"token_id$|^(?:_name_or_path|dtype|torch_dtype|transformers_version|use_cache)$"
)


@dataclass(frozen=True)
class Part:
    """A tensor that the files of a model hold.

    Attributes:
        shape: of the tensor.
        place: its layer and role.
        by_token: whether its rows belong to tokens.
        tied: the name of the tensor that it is, where the config ties it to one.
    """

    shape: tuple[int, ...]
    place: Place
    by_token: bool = False
    tied: str = ""


@dataclass(frozen=True)
class Skeleton:
    """See the module's text.

    Attributes:
        parts: by name on disk, in depth order.
        layers: blocks.
        extras: patterns of what files may hold that the model does not, such as heads for more tokens.
        kinds: what sort of block each is; a path may put a block only where the config wants one of its kind.
        whole: classes of modules, its blocks, that one device must hold whole; empty: transformers says of none.
    """

    parts: Mapping[str, Part]
    layers: int
    extras: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> Skeleton:
        """The skeleton of the model that a ``config.json`` describes.

        Raises:
            Incompatible: it names no architecture that transformers has, or describes no model of it.
        """
        check_architecture(config, where)
        plain = {key: value for key, value in config.items() if not _PLAIN.search(key)}
        key = name_of([VERSION, _version("transformers"), plain])
        if key not in _KNOWN:
            _KNOWN[key] = _cached(key) or _made(key, config, where)
        return _KNOWN[key]

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """By name, in depth order; of tensors that are tied to others not."""
        return {name: part.place for name, part in self.parts.items() if not part.tied}

    @cached_property
    def embedding(self) -> str | None:
        """The name of the embedding whose rows belong to tokens."""
        return next(
            (n for n, p in self.parts.items() if p.by_token and p.place.role == "embed"), None
        )


_KNOWN: dict[str, Skeleton] = {}  # of this process, by the cache's names


def usual(layers: int, architecture: str = "LlamaForCausalLM") -> Skeleton:
    """The skeleton of a small model of ``layers`` blocks, for names of tensors where there is no model."""
    small = {
        "architectures": [architecture],
        "num_hidden_layers": layers,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 16,
        "tie_word_embeddings": False,
    }
    return Skeleton.of(small, f"a small {architecture}")


def check_architecture(config: Mapping[str, Any], where: str) -> str:
    """The architecture named in a ``config.json``.

    Raises:
        Incompatible: it names none.
    """
    listed = config.get("architectures")
    found = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(found, str) or not found.isidentifier():
        raise Incompatible(
            f"{where}: config.json: architectures: expected a list with the name of a transformers class, as in "
            f'["LlamaForCausalLM"], found {json.dumps(listed)[:100]}'
        )
    return found


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a ``config.json`` that is about the language model: the whole, or what lies in it as ``text_config``."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def check_depth(config: Mapping[str, Any], where: str, tensors: int) -> None:
    """Refuse a config of more blocks than the ``tensors`` of its files could be of, before one is built.

    Raises:
        Incompatible: it says so.
    """
    for part in (config, text_part(config)):
        depth = part.get("num_hidden_layers")
        if isinstance(depth, int) and depth > tensors:
            raise Incompatible(
                f"{where}: config.json: num_hidden_layers is {depth:,}, and the files hold {tensors:,} tensors"
            )


def computed(name: str) -> bool:
    """True for stored tensors that follow from the config, such as rotary tables."""
    return bool(_COMPUTED.search(name))


def _cached(key: str) -> Skeleton | None:
    with suppress(OSError, ValueError, TypeError, KeyError, RuntimeError):
        return _read(json.loads((cache_folder("skeletons") / f"{key}.json").read_text("utf-8")))
    return None


def _made(key: str, config: Mapping[str, Any], where: str) -> Skeleton:
    from evomerge.skeleton.conversion import held_names, stored
    from evomerge.skeleton.modules import block_kinds, meta_model, places_of, tied_names

    model = meta_model(config, where)
    tensors = stored(model)
    held = held_names(model, tensors)
    places, tied = places_of(model), tied_names(model)
    by_held = {name: disk for disk, name in held.items()}
    parts: dict[str, Part] = {}
    for name, tensor in tensors.items():
        if held[name] not in places:
            raise Incompatible(
                f"{where}: {name}: transformers maps it to {held[name]!r}, which the model does not have"
            )
        first = tied.get(held[name], "")
        place, by_token = places[held[name]]
        place = _on_disk(place, name)
        parts[name] = Part(tuple(tensor.shape), place, by_token, by_held.get(first, first))
    order = ordered({name: part.place for name, part in parts.items()})
    layers = next((part.place.layers for part in parts.values()), 0)
    extras = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    whole = getattr(model, "_no_split_modules", None) or ()
    found = Skeleton(
        {name: parts[name] for name in order},
        layers,
        tuple(sorted(extras)),
        tuple(block_kinds(model)),
        tuple(sorted(whole)),
    )
    with suppress(OSError, RuntimeError):
        folder = cache_folder("skeletons")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{key}.json", json.dumps(_written(found)))
    return found


def _on_disk(place: Place, name: str) -> Place:
    """The same place, of a tensor that is called ``name`` on disk."""
    path = name if place.layer is None else name.replace(f".{place.layer}.", ".{}.", 1)
    return Place(place.layer, place.role, place.layers, place.projection, name, path)


def _written(skeleton: Skeleton) -> dict[str, Any]:
    rows = [
        [name, part.shape, at.layer, at.role, at.projection, part.by_token, part.tied]
        for name, part in skeleton.parts.items()
        for at in [part.place]
    ]
    return {
        "layers": skeleton.layers,
        "extras": skeleton.extras,
        "kinds": skeleton.kinds,
        "whole": skeleton.whole,
        "parts": rows,
    }


def _read(content: Mapping[str, Any]) -> Skeleton:
    layers, parts = content["layers"], {}
    for name, shape, layer, role, projection, by_token, tied in content["parts"]:
        place = _on_disk(Place(layer, role, layers, projection), name)
        parts[name] = Part(tuple(shape), place, by_token, tied)
    lists = (tuple(content[key]) for key in ("extras", "kinds", "whole"))
    return Skeleton(parts, layers, *lists)
