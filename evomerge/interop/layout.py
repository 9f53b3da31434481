"""From values per place to groups of layers and roles, as few as will do, and to runs of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from evomerge.recipe import Group
from evomerge.tensors import OTHER, ROLES, Place

T = TypeVar("T")
Runs = list[tuple[int, int, T]]  # first and last layer, what they have in common


def runs_of(values: Sequence[T]) -> Runs[T]:
    """Consecutive layers of equal value, put together."""
    runs: Runs[T] = []
    for layer, value in enumerate(values):
        if runs and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], layer, value)
        else:
            runs.append((layer, layer, value))
    return runs


def by_layer(groups: Mapping[Place, Group], layers: int) -> list[dict[str, Group]]:
    """Role -> group, for each layer."""
    found: list[dict[str, Group]] = [{} for _ in range(layers)]
    for place, group in groups.items():
        if place.layer is not None:
            found[place.layer][place.role] = group
    return found


def groups_of(groups: Mapping[Place, Group], layers: int, *, ranged: bool) -> tuple[Group, ...]:
    """Groups that merge every place as ``groups`` says.

    Args:
        groups: place -> what merges it, with neither layers nor roles.
        layers: number of blocks.
        ranged: name the layers even where they make no difference.
    """
    blocks = by_layer(groups, layers)
    outside = {place.role: group for place, group in groups.items() if place.layer is None}
    depths = {role: runs_of([block[role] for block in blocks]) for role in blocks[0]}
    constant = dict(outside)  # roles that depth makes no difference to
    varying = {}
    for role, runs in depths.items():
        if len(runs) > 1 or ranged or outside.get(role, runs[0][2]) != runs[0][2]:
            varying[role] = runs
        else:
            constant[role] = runs[0][2]
    found = []
    for runs, roles in _alike(varying):
        shown = None if len(roles) == len(depths) else tuple(roles)
        found += [replace(each, layers=(low, high), roles=shown) for low, high, each in runs]
    rest = [replace(group, roles=_short(roles)) for group, roles in _alike(constant)]
    # what is left needs no name, where the depth is certain
    return (*found, *rest[:-1], rest[-1] if ranged else replace(rest[-1], roles=None))


def _alike(values: Mapping[str, T]) -> list[tuple[T, list[str]]]:
    """The distinct values, each with its roles; roles in their usual order."""
    found: list[tuple[T, list[str]]] = []
    for role in sorted(values, key=ROLES.index):
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
