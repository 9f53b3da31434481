"""Places: where tensors sit in a model, by layer and role. Which tensor sits where is its skeleton's to say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

ROLES = ("attn", "mlp", "expert", "router", "norm", "embed", "head", "tower")
OTHER = ("norm", "embed", "head")  # what the role "other" of a group stands for
KEPT = ("router", "tower")  # taken from one model, unless a group names them
PROJECTIONS = {"attn": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}  # finer roles
FINE = tuple(name for names in PROJECTIONS.values() for name in names)


@dataclass(frozen=True)
class Place:
    """Where a tensor sits.

    Attributes:
        layer: number of its block, from 0; None outside the blocks.
        role: one of ``ROLES``, or ``other`` for a tensor of no model.
        layers: blocks of the model, of which a kernel or a line over depth may want to know.
        projection: the finer role, one of ``FINE``; empty where there is none, or it is not known.
        tensor: the name of the one tensor that is meant; empty for all that sit there.
        path: that name with ``{}`` for the number of the block.
        absent: names of models that have no such tensor, where those of a merge are of several kinds.

    The last five make no difference to whether two places are the same.
    """

    layer: int | None
    role: str
    layers: int = field(default=1, compare=False)
    projection: str = field(default="", compare=False)
    tensor: str = field(default="", compare=False)
    path: str = field(default="", compare=False)
    absent: frozenset[str] = field(default=frozenset(), compare=False)

    def at(self, layer: int) -> str:
        """The name of the tensor that is in block ``layer`` what this one is in its own."""
        return self.tensor if self.layer is None else self.path.replace("{}", str(layer), 1)

    @property
    def inner(self) -> str:
        """The name of the tensor inside its block: ``self_attn.q_proj.weight``; its whole name outside."""
        return self.tensor if self.layer is None else self.path.partition(".{}.")[2]

    @property
    def brief(self) -> str:
        """The name of the tensor as genes are called after it: ``3.self_attn.q_proj``."""
        depth = "" if self.layer is None else f"{self.layer}."
        return depth + self.inner.removeprefix("model.").removesuffix(".weight")

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


def common_path(one: str, other: str) -> str:
    """The path of the module that holds both of two dotted names; empty for the whole model."""
    pairs = zip(one.split(".")[:-1], other.split(".")[:-1], strict=False)
    return ".".join(word for word, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def coarse(places: Iterable[Place], layers: int) -> list[Place]:
    """The distinct layers and roles of ``places``, in depth order; a head, also where it is the embedding."""
    wanted = dict.fromkeys(Place(p.layer, p.role, layers) for p in places)
    wanted.setdefault(Place(None, "head", layers))
    return sorted(wanted, key=_depth)


def dense(layers: int) -> list[Place]:
    """The places of a model of ``layers`` blocks of attention and one MLP each, in depth order."""
    inside = [Place(n, role, layers) for n in range(layers) for role in ("attn", "mlp", "norm")]
    outside = [Place(None, role, layers) for role in OTHER]
    return sorted([*inside, *outside], key=_depth)


def ordered(places: Mapping[str, Place]) -> tuple[str, ...]:
    """The names: embedding, blocks in depth order, final norm, head, other towers: the order files are read in."""
    return tuple(sorted(places, key=lambda name: (*_depth(places[name])[:2], name)))


def _depth(place: Place) -> tuple[int, int, int]:
    if place.layer is not None:
        return 1, place.layer, ROLES.index(place.role)
    return {"embed": 0, "head": 3, "tower": 4}.get(place.role, 2), 0, ROLES.index(place.role)
