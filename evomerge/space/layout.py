"""Where a space places values: spots over depth and roles, and the regions that read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from evomerge.space.spec import SpaceSpec, expanded
from evomerge.tensors import KEPT, ROLES, Place

Classes = Sequence[tuple[str, ...] | None]  # roles that share values; None is all roles


@dataclass(frozen=True)
class Region:
    """Tensors decoded into one group: where it lies and which spots its values come from."""

    layers: tuple[int, int] | None
    roles: tuple[str, ...] | None
    blend: tuple[tuple[int, float], ...]  # (spot, share), shares add up to 1
    tensors: tuple[str, ...] | None = None

    def matches(self, place: Place) -> bool:
        return place.within(self.layers, self.roles, self.tensors)

    @property
    def nearest(self) -> int:
        return max(self.blend, key=lambda pair: pair[1])[0]


@dataclass(frozen=True)
class Zone:
    """Sites that choose their method together."""

    label: str
    spots: tuple[int, ...]


@dataclass(frozen=True)
class Arrangement:
    """Site labels; regions, in matching order; zones, which hold each spot once."""

    spots: tuple[str, ...]
    regions: tuple[Region, ...]
    zones: tuple[Zone, ...]

    def region_of(self, place: Place) -> Region:
        if (named := self._named.get(place.tensor)) is not None:
            return named
        return next(region for region in self.regions if region.matches(place))

    @cached_property
    def _named(self) -> Mapping[str, Region]:
        """Tensor -> its region, where regions go by names alone."""
        return {name: region for region in self.regions for name in region.tensors or ()}

    def zone_of(self, spot: int) -> int:
        """The number of the zone that holds ``spot``."""
        return self._zones[spot]

    @cached_property
    def _zones(self) -> Mapping[int, int]:
        return {spot: number for number, zone in enumerate(self.zones) for spot in zone.spots}

    def reached(self, places: Iterable[Place]) -> Arrangement:
        """The part of this layout that some place reads."""
        found = {self.region_of(place) for place in places}
        regions = [region for region in self.regions if region in found]
        spots = sorted({spot for region in regions for spot, _ in region.blend})
        number = {spot: n for n, spot in enumerate(spots)}
        zones = [
            Zone(zone.label, tuple(number[spot] for spot in zone.spots if spot in number))
            for zone in self.zones
        ]
        return Arrangement(
            tuple(self.spots[spot] for spot in spots),
            tuple(
                replace(region, blend=tuple((number[spot], share) for spot, share in region.blend))
                for region in regions
            ),
            tuple(zone for zone in zones if zone.spots),
        )


def arrange(spec: SpaceSpec, layers: int, places: Sequence[Place]) -> Arrangement:
    """Blocks or knots over ``layers`` layers x roles, or single tensors; the regions match all ``places``."""
    if spec.tensors:
        labels = [place.brief for place in places]
        return Arrangement(
            tuple(labels),
            tuple(Region(None, None, ((n, 1.0),), (at.tensor,)) for n, at in enumerate(places)),
            tuple(Zone(label, (n,)) for n, label in enumerate(labels)),
        )
    classes: Classes = [(role,) for role in spec.roles] or [None]
    if spec.knots:
        return _lay_knots(classes, min(spec.knots, layers), layers)
    return _lay_blocks(classes, min(spec.blocks or 0, layers), layers)


def _lay_blocks(classes: Classes, count: int, layers: int) -> Arrangement:
    """``count`` blocks of layers (0: depth makes no difference) x roles, and a rest."""
    spots: list[str] = []
    regions: list[Region] = []

    def add(label: str, layers: tuple[int, int] | None, roles: tuple[str, ...] | None) -> None:
        regions.append(Region(layers, roles, ((len(spots), 1.0),)))
        spots.append(label)

    edges = [round(i * layers / count) for i in range(count + 1)] if count else []
    blocks: list[tuple[int, int] | None] = [(low, high - 1) for low, high in pairwise(edges)]
    for block in blocks or [None]:
        for roles in classes:
            depth = (f"{block[0]}-{block[1]}",) if block else ()
            if (block or roles) and not (block and _outside(roles)):
                add(".".join((*depth, *(roles or ()))), block, roles)
    if blocks:
        for roles in filter(_outside, classes):
            assert roles is not None
            add(roles[0], None, roles)
    if blocks or not _cover_all(classes):
        add("rest" if spots else "all", None, None)
    zones = [Zone(label, (spot,)) for spot, label in enumerate(spots)]
    return Arrangement(tuple(spots), tuple(regions), tuple(zones))


def _lay_knots(classes: Classes, count: int, layers: int) -> Arrangement:
    """``count`` knots a class of roles, interpolated over the layers."""
    # knots stand on whole layers, so that a recipe shows their values and can be encoded again
    depths = [round(i * (layers - 1) / max(count - 1, 1)) for i in range(count)]
    if None not in classes and not _cover_all(classes):
        classes = [*classes, None]
    spots: list[str] = []
    regions: list[Region] = []
    zones: list[Zone] = []  # knots cannot blend methods: one a class
    for roles in classes:
        first = len(spots)
        if _outside(roles):
            spots += roles or ()
            regions.append(Region(None, roles, ((first, 1.0),)))
        else:
            spots += [".".join([f"{depth}", *(roles or ())]) for depth in depths]
            for layer in range(layers):
                regions.append(Region((layer, layer), roles, _between(depths, layer, first)))
            # outside the blocks: the embedding is the shallow end, final norm and head the deep
            inside = expanded(roles) if roles else None
            if inside is None or "embed" in inside:
                regions.append(Region(None, ("embed",), ((first, 1.0),)))
            if inside is None:
                regions.append(Region(None, None, ((first + count - 1, 1.0),)))
            elif deep := tuple(r for r in ("norm", "head") if r in inside):
                regions.append(Region(None, deep, ((first + count - 1, 1.0),)))
        zones.append(Zone(roles[0] if roles else "", tuple(range(first, len(spots)))))
    return Arrangement(tuple(spots), tuple(regions), tuple(zones))


def _cover_all(classes: Classes) -> bool:
    return expanded([role for roles in classes for role in roles or ()]) >= set(ROLES) - set(KEPT)


def _outside(roles: Sequence[str] | None) -> bool:
    """True if the roles exist outside the blocks only, where there is no depth."""
    return roles is not None and expanded(roles) <= {"embed", "head"}


def _between(depths: Sequence[int], layer: int, first: int) -> tuple[tuple[int, float], ...]:
    """Shares of the two knots around ``layer`` (linear interpolation over depth)."""
    for number, depth in enumerate(depths):
        if layer == depth:
            return ((first + number, 1.0),)
        if layer < depth:
            low = depths[number - 1]
            share = (layer - low) / (depth - low)
            return ((first + number - 1, 1.0 - share), (first + number, share))
    return ((first + len(depths) - 1, 1.0),)
