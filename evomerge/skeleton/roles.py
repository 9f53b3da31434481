"""Which role a tensor has, from its module's class and its path inside a block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from evomerge.patterns import found
from evomerge.tensors import Place

# words of a path, joined by _ and ., by which a block's parts are called; the first path element that says
# something decides
_WORDS = (
    (
        "attn",
        r"attn|attention|att|mixer|mamba\d?|ssm|conv|shortconv|rwkv|recurrent|temporal|time_mix|delta|gla|kda|"
        r"mlstm|slstm|xlstm|lru|query|key|value|qkv|q|k|v|o|rel|multihead",
    ),
    (
        "mlp",
        r"mlp|mlps|ffn|ffns|ff|feed|feedforward|moe|fc\d?|dense|intermediate|output|channel|proj|w\d|wi|wo|up|"
        r"down|gate|glu",
    ),
)
_WORD = [(role, re.compile(rf"(?:^|[_.])(?:{words})(?:$|[_.\d])")) for role, words in _WORDS]
_EXPERT = re.compile(r"(?:^|\.)(?!shared)\w*experts?(?:\.|$)")
_SHARED = re.compile(r"shared_experts?(?:\.|$)")
_ROUTER = re.compile(
    r"(?:^|\.)(?:\w*router|gate|gating|shared_expert_gate|\w*expert_gate)(?:\.|$)|e_score_correction_bias$"
)
_OTHER_TOWER = re.compile(
    r"(?:^|[_.])(?:vision|visual|image|img|audio|speech|video|vit|projector|connector|multi_modal\w*|mtp)"
)
_POOLER = re.compile(r"(?:^|\.)pooler(?:\.|$)")  # makes one vector of a text, behind the blocks
_PROJECTION = {
    "attn": re.compile(r"(?:^|\.)([qkvo])_proj\.(?:weight|bias)$"),
    "mlp": re.compile(r"(?:^|\.)(gate|up|down)_proj\.(?:weight|bias)$"),
}


def role_in_block(path: str, norm: bool, vector: bool = False) -> str:
    """The role of the tensor that a block calls ``path``.

    What no word tells is a scale of the residual stream, which counts as a norm, or another matrix between
    streams, which counts as mlp.

    Args:
        path: as in ``self_attn.q_proj.weight``.
        norm: whether the module that owns it normalises.
        vector: whether it has at most one axis.
    """
    if norm:
        return "norm"
    if not _SHARED.search(path):
        if _ROUTER.search(path):
            return "router"
        if _EXPERT.search(path):
            return "expert"
    elif _ROUTER.search(path):
        return "router"
    for element in path.split("."):
        for role, words in _WORD:
            if words.search(element):
                return role
    return "norm" if vector else "mlp"


def in_other_tower(path: str) -> bool:
    """True for what its name says is of a tower for images, sounds, or further tokens."""
    return bool(_OTHER_TOWER.search(path))


def role_outside(path: str, norm: bool, in_tower: bool) -> str:
    """The role of a tensor outside the blocks that is neither the embedding's nor the head's.

    Args:
        path: its whole name.
        norm: whether the module that owns it normalises.
        in_tower: whether it belongs to the tower that has the blocks.
    """
    if in_other_tower(path):
        return "tower"
    if norm:
        return "norm"
    return "embed" if in_tower and not _POOLER.search(path) else "head"


def placed(places: Mapping[str, Place], patterns: Mapping[str, str]) -> dict[str, Place]:
    """The places of tensors, by name, with the roles that ``patterns`` of names say; the first that is found decides."""

    def at(name: str, place: Place) -> Place:
        role = next((role for pattern, role in patterns.items() if found(pattern, name)), None)
        if role is None:
            return place
        return replace(place, role=role, projection=projection_of(place.inner, role))

    return {name: at(name, place) for name, place in places.items()}


def projection_of(path: str, role: str) -> str:
    """The finer role of a tensor; empty where it has none."""
    pattern = _PROJECTION.get(role)
    found = pattern.search(path) if pattern else None
    return found[1] if found else ""
