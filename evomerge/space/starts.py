"""Known recipes: what a search scores before it searches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.lines import HEADS, Lines
from evomerge.recipe import Group, Recipe, group
from evomerge.space import layer_swap, simplex
from evomerge.space.settings import is_domain
from evomerge.space.spec import SpaceSpec

SWEEP = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # equal weights of the task-arithmetic baseline

Groups = tuple[Group, ...]


def known_recipes(spec: SpaceSpec, sources: Sequence[str], layers: int) -> dict[str, Groups]:
    """The groups of the recipes that ``start`` names, by label; parents are not among them.

    ``uniform`` always is.

    Raises:
        ConfigError: a recipe file is wrong, or about other models.
    """
    found = {"uniform": uniform(spec, sources)}
    for name in spec.start:
        if name.endswith((".yaml", ".yml")):
            found[name] = _from_file(spec, sources, name)
        elif name == "task_arithmetic":
            for weight in SWEEP:
                team = spec.team(name, sources)
                found[f"{name} {weight:g}"] = _known(spec, team, name, weight=weight)
        elif name == "lines":
            found[name] = _line(spec, sources)
        elif name == "layer_swap":
            for outer, inner in itertools.permutations(sources, 2):
                if not spec.swap or (
                    spec.swap.outer in (None, outer) and spec.swap.inner in (None, inner)
                ):
                    swap = layer_swap.published(outer, inner, layers)
                    found[f"{name} {outer} around {inner}"] = swap.groups(layers)
        elif name not in ("parents", "uniform"):
            team = spec.team(name, sources)
            if methods.get(name).arity_problem(len(team), True) is None:
                found[name] = _known(spec, team, name)
    return found


def uniform(spec: SpaceSpec, sources: Sequence[str]) -> Groups:
    """The plain average."""
    return (group("linear", sources, {"weight": _even(sources)} if spec.simplex else None),)


def _even(team: Sequence[str]) -> dict[str, float]:
    """Equal weights, as they stand on the simplex."""
    units = simplex.decode([0.5] * (len(team) - 1))
    return {model: u / simplex.UNITS for model, u in zip(team, units, strict=True)}


def _known(spec: SpaceSpec, team: Sequence[str], name: str, **values: Any) -> Groups:
    """A method on every tensor: values given, else fixed by the space, else its defaults."""
    for parameter in methods.get(name).parameters:
        models = team if parameter.per_model else (None,)
        settings = {model: spec.setting(parameter, model) for model in models}
        chosen = {
            model: setting.default if is_domain(setting) else setting
            for model, setting in settings.items()
        }
        if spec.simplex and parameter.per_model and parameter.name == "weight":
            values.setdefault("weight", _even(team))
        values.setdefault(parameter.name, chosen if parameter.per_model else chosen[None])
    return (group(name, team, values),)


def _line(spec: SpaceSpec, sources: Sequence[str]) -> Groups:
    """LiNeS of the sum of all task vectors: their average in the first block, their sum in the last."""
    count = len(sources)
    weights: Any = _even(sources) if spec.simplex else 1.0
    total = 1 if spec.simplex else count
    head = spec.lines.head if spec.lines else HEADS[0]
    line = Lines(round(1 / total, 4), round((count - 1) / total, 4), head)
    return (group("task_arithmetic", sources, {"weight": weights}, lines=line),)


def _from_file(spec: SpaceSpec, sources: Sequence[str], name: str) -> Groups:
    loaded = Recipe.load(Path(spec.origin) / name)
    if tuple(loaded.models) != tuple(sources):
        raise ConfigError(
            [
                f"{name}: its sources are {', '.join(loaded.models)}; this run's are {', '.join(sources)}"
            ]
        )
    return loaded.groups
