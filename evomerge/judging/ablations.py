"""Variants of a recipe with one thing left out: a model, or what is merged in one part of the depth and one role.

What a winner loses without it says what that was worth there, beside all the rest; the losses of several need not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evomerge import methods
from evomerge.recipe import BASE, Group, Recipe, group, passing
from evomerge.tensors import OTHER

ROLES = (("attn",), ("mlp", "expert"), OTHER)  # that are set back apart


@dataclass(frozen=True)
class Variant:
    """A recipe that lacks something.

    Attributes:
        kind: ``parent`` or ``part``.
        without: what it lacks, in words.
        recipe: it.
    """

    kind: str
    without: str
    recipe: Recipe


def variants(recipe: Recipe, layers: int, most: int) -> list[Variant]:
    """At most ``most`` variants: the parents first, then as many parts of the model as fit.

    A part is a role in a stretch of the depth, set back to the base: one stretch of all layers, or as many even
    ones as ``most`` allows. Embedding, head and norms are one part. Without a base there are no parts.
    """
    found = [
        Variant("parent", name, lacking)
        for name in recipe.models
        if (lacking := _without_parent(recipe, name)) is not None
    ][:most]
    left = most - len(found)
    if recipe.base is None or left <= 0:
        return found
    *inside, outside = ROLES
    stretches = max(1, min(layers, (left - 1) // len(inside)))
    parts = [
        (roles, (layers * n // stretches, layers * (n + 1) // stretches - 1))
        for n in range(stretches)
        for roles in inside
    ]
    found += [
        Variant("part", _named(roles, at), _set_back(recipe, roles, at)) for roles, at in parts
    ]
    found.append(Variant("part", ", ".join(outside), _set_back(recipe, outside, None)))
    return found[:most]


def _named(roles: Sequence[str], layers: tuple[int, int]) -> str:
    first, last = layers
    where = f"layer {first}" if first == last else f"layers {first}-{last}"
    return f"{roles[0]}, {where}"


def _set_back(recipe: Recipe, roles: Sequence[str], layers: tuple[int, int] | None) -> Recipe:
    """The same with the base's tensors there."""
    first = replace(passing(BASE), layers=layers, roles=tuple(roles))
    return replace(recipe, body=replace(recipe.body, groups=(first, *recipe.groups)))


def _without_parent(recipe: Recipe, name: str) -> Recipe | None:
    """The same of the other models; None if there is no such recipe, or ``name`` is not merged at all."""
    groups = []
    for each in recipe.groups:
        lacking = _without(each, name, recipe.base is not None)
        if lacking is None:
            return None
        groups.append(lacking)
    if tuple(groups) == recipe.groups:
        return None
    return replace(recipe, body=replace(recipe.body, groups=tuple(groups)))


def _without(each: Group, name: str, has_base: bool) -> Group | None:
    """A group without one of its models: left out, or with no weight where its method needs as many models."""
    if name not in each.models:
        return each
    left = tuple(model for model in each.models if model != name)
    if left and methods.get(each.method).arity_problem(len(left), has_base) is None:
        values = {
            key: {model: value[model] for model in left} if isinstance(value, dict) else value
            for key, value in each.values.items()
        }
        return replace(each, models=left, values=values)
    if isinstance(weights := each.values.get("weight"), dict):
        return replace(each, values={**each.values, "weight": {**weights, name: 0.0}})
    if len(left) == 1 or (not left and has_base):
        return group(
            "passthrough",
            left or (BASE,),
            layers=each.layers,
            roles=each.roles,
            named=each.tensors,
        )
    return None
