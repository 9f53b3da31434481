"""Tensor names: the only place that knows how architectures name their weights.

Llama, Mistral, Qwen2, Qwen3 and Gemma (1 to 3, text) share one naming scheme; it gives each tensor
a layer and a role. Other architectures are refused with the reason.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from evomerge.errors import Incompatible

ARCHITECTURES = {
    "LlamaForCausalLM": "Llama",
    "MistralForCausalLM": "Mistral",
    "Qwen2ForCausalLM": "Qwen2",
    "Qwen3ForCausalLM": "Qwen3",
    "GemmaForCausalLM": "Gemma",
    "Gemma2ForCausalLM": "Gemma",
    "Gemma3ForCausalLM": "Gemma",
}

ROLES = ("attn", "mlp", "norm", "embed", "head")
OTHER = ("norm", "embed", "head")  # what the role "other" of a group stands for
PROJECTIONS = {"attn": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}  # finer roles
FINE = tuple(name for names in PROJECTIONS.values() for name in names)

_EMBED, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_OUTSIDE = {_EMBED: "embed", _HEAD: "head", "model.norm.weight": "norm"}
_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
_IN_LAYER = (
    (re.compile(r"^(?:[a-z_]*layernorm|self_attn\.[qk]_norm)\.weight$"), "norm"),
    (re.compile(r"^self_attn\.([qkvo])_proj\.(?:weight|bias)$"), "attn"),
    (re.compile(r"^mlp\.(gate|up|down)_proj\.(?:weight|bias)$"), "mlp"),
)
# computed from the config, stored by some old checkpoints
_IGNORED = re.compile(r"^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class Place:
    """Where a tensor sits.

    Attributes:
        layer: number of its block, from 0; None outside the blocks.
        role: one of ``ROLES``, or ``other`` for a tensor of no model.
        layers: blocks of the model, of which a kernel or a line over depth may want to know.
        projection: the finer role, one of ``FINE``; empty where there is none, or it is not known.
        tensor: the name of the one tensor that is meant; empty for all that sit there.

    The last three make no difference to whether two places are the same.
    """

    layer: int | None
    role: str
    layers: int = field(default=1, compare=False)
    projection: str = field(default="", compare=False)
    tensor: str = field(default="", compare=False)

    def within(
        self,
        layers: tuple[int, int] | None,
        roles: Sequence[str] | None,
        names: Sequence[str] | None = None,
    ) -> bool:
        """True if it is in one of these layers (both ends included) and roles, and so called; None is all."""
        if layers is not None and (self.layer is None or not layers[0] <= self.layer <= layers[1]):
            return False
        if names is not None and self.tensor not in names:
            return False
        return (
            roles is None
            or self.role in roles
            or ("other" in roles and self.role in OTHER)
            or (self.projection in roles and bool(self.projection))
        )


def places(layers: int, names: Iterable[str] = ()) -> list[Place]:
    """Every place of a model of ``layers`` blocks, in depth order; with ``names`` those of its tensors."""
    if names := ordered(names):
        return [place_of(name, layers) for name in names]
    inside = [(layer, role) for layer in range(layers) for role in ("attn", "mlp", "norm")]
    return [Place(*at, layers) for at in [(None, "embed"), *inside, (None, "norm"), (None, "head")]]


@functools.lru_cache(maxsize=1 << 16)
def place_of(name: str, layers: int = 1) -> Place:
    """Where the tensor called ``name`` sits in a model of ``layers`` blocks.

    Raises:
        Incompatible: the name belongs to no known scheme.
    """
    if name in _OUTSIDE:
        return Place(None, _OUTSIDE[name], layers, tensor=name)
    match = _LAYER.match(name)
    if match:
        for pattern, role in _IN_LAYER:
            if found := pattern.match(match[2]):
                projection = found[1] if role in PROJECTIONS else ""
                return Place(int(match[1]), role, layers, projection, name)
    raise Incompatible(
        f"tensor {name!r} is not part of the naming scheme shared by "
        f"{', '.join(sorted(set(ARCHITECTURES.values())))}; evomerge cannot tell its layer and role"
    )


def at_layer(name: str, layer: int) -> str:
    """The name of the tensor that is in block ``layer`` what ``name`` is in its own."""
    match = _LAYER.match(name)
    return f"model.layers.{layer}.{match[2]}" if match else name


def path_of(name: str) -> str:
    """The name of a tensor inside its block: ``self_attn.q_proj.weight``; its whole name outside."""
    match = _LAYER.match(name)
    return match[2] if match else name


def brief(name: str) -> str:
    """The name of a tensor as genes are called after it: ``3.self_attn.q_proj``."""
    return name.removeprefix("model.").removeprefix("layers.").removesuffix(".weight")


def ignored(name: str, *, tied: bool) -> bool:
    """True for stored tensors that are not parameters: rotary tables, a tied output head."""
    return bool(_IGNORED.match(name)) or (tied and name == _HEAD)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Embedding, blocks in depth order, final norm, head: the order files are read in."""

    def rank(name: str) -> tuple[int, int, str]:
        place = place_of(name)
        if place.layer is not None:
            return (1, place.layer, name)
        return ({"embed": 0, "norm": 2, "head": 3}[place.role], 0, name)

    return tuple(sorted(names, key=rank))


def check_architecture(config: dict[str, object], where: str) -> str:
    """The architecture named in a ``config.json``, if its tensor names are known."""
    listed = config.get("architectures")
    architecture = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise Incompatible(
            f"{where}: architecture {architecture!r} is not supported: its tensor names are unknown "
            f"here; supported: {', '.join(ARCHITECTURES)}"
        )
    return architecture
