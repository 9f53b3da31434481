"""From values per tensor to groups of layers, roles and names, as few as will do; and runs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from evomerge.recipe import Group
from evomerge.tensors import OTHER, PROJECTIONS, ROLES, Place

T = TypeVar("T")
Runs = list[tuple[int, int, T]]  # first and last layer, what they have in common

_ORDER = tuple(name for role in ROLES for name in (role, *PROJECTIONS.get(role, ())))


def runs_of(values: Sequence[T]) -> Runs[T]:
    """Consecutive layers of equal value, put together."""
    runs: Runs[T] = []
    for layer, value in enumerate(values):
        if runs and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], layer, value)
        else:
            runs.append((layer, layer, value))
    return runs


def by_layer(
    groups: Mapping[str, Group], places: Mapping[str, Place], layers: int
) -> list[dict[str, Group]]:
    """Tensor, as it is called in block 0 -> group, for each layer; ``places`` holds them all."""
    found: list[dict[str, Group]] = [{} for _ in range(layers)]
    for name, group in groups.items():
        place = places[name]
        if place.layer is not None:
            found[place.layer][place.at(0)] = group
    return found


def groups_of(
    groups: Mapping[str, Group], places: Mapping[str, Place], layers: int, *, ranged: bool
) -> tuple[Group, ...]:
    """Groups that merge every tensor as ``groups`` says.

    They go by layer and role, by finer role where roles say too little, and else by name: norms of a block
    that differ, a bias that differs from its weight.

    Args:
        groups: tensor -> what merges it, with neither layers nor roles nor tensors.
        places: where the tensors sit.
        layers: number of blocks.
        ranged: name the layers even where they make no difference.
    """
    blocks = by_layer(groups, places, layers)
    if len({frozenset(block) for block in blocks}) > 1:  # layers of several kinds
        *few, most = sorted(by_name(groups), key=lambda group: len(group.tensors or ()))
        return (*few, replace(most, tensors=None))
    depths, named = _classes(blocks, places)
    outside = {places[n].role: each for n, each in groups.items() if places[n].layer is None}
    constant = dict(outside)  # roles that depth makes no difference to
    varying = {}
    for role, runs in depths.items():
        if len(runs) > 1 or ranged or outside.get(role, runs[0][2]) != runs[0][2]:
            varying[role] = runs
        else:
            constant[role] = runs[0][2]
    found = []
    for runs, roles in _alike(varying):
        shown = None if len(roles) == len(depths) and not named else tuple(roles)
        found += [replace(each, layers=(low, high), roles=shown) for low, high, each in runs]
    *rest, (last, left) = sorted(_alike(constant), key=lambda found: len(found[1]))
    for name, runs in named.items():
        # what is left needs no name, where the depth is certain and no other group takes it
        role = places[name].role
        free = not ranged and (role not in outside or role in left)
        found += [
            replace(each, tensors=tuple(places[name].at(layer) for layer in range(low, high + 1)))
            for low, high, each in runs
            if not (free and each == last)
        ]
    found += [replace(group, roles=_short(roles)) for group, roles in rest]
    return (*found, replace(last, roles=_short(left) if ranged else None))


def by_name(groups: Mapping[str, Group]) -> list[Group]:
    """Groups that merge every tensor as ``groups`` says, with their names."""
    named: list[tuple[Group, list[str]]] = []
    for name, group in groups.items():
        same = next((names for each, names in named if each == group), None)
        if same is None:
            named.append((group, [name]))
        else:
            same.append(name)
    return [replace(group, tensors=tuple(names)) for group, names in named]


def _classes(
    blocks: Sequence[Mapping[str, Group]], places: Mapping[str, Place]
) -> tuple[dict[str, Runs[Group]], ...]:
    """Runs of layers by role, or by finer role, and by tensor where those do not tell enough apart."""
    by_role: dict[str, Runs[Group]] = {}
    by_name: dict[str, Runs[Group]] = {}

    def alike(names: Sequence[str]) -> bool:
        return all(block[name] == block[names[0]] for block in blocks for name in names)

    def runs(name: str) -> Runs[Group]:
        return runs_of([block[name] for block in blocks])

    for role, names in _sorted(blocks[0], lambda name: places[name].role).items():
        if alike(names):
            by_role[role] = runs(names[0])
            continue
        for finer, own in _sorted(names, lambda name: places[name].projection).items():
            if finer and alike(own):
                by_role[finer] = runs(own[0])
            else:
                by_name.update({name: runs(name) for name in own})
    return by_role, by_name


def _sorted(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """The names by what ``key`` says of them."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found


def _alike(values: Mapping[str, T]) -> list[tuple[T, list[str]]]:
    """The distinct values, each with its roles; roles in their usual order."""
    found: list[tuple[T, list[str]]] = []
    for role in sorted(values, key=_ORDER.index):
        same = next((roles for value, roles in found if value == values[role]), None)
        if same is None:
            found.append((values[role], [role]))
        else:
            same.append(role)
    return found


def _short(roles: Sequence[str]) -> tuple[str, ...]:
    """The roles with ``other`` for norm, embed and head."""
    if set(roles) >= set(OTHER):
        return (*(role for role in roles if role not in OTHER), "other")
    return tuple(roles)
