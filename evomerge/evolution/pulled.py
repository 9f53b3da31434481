"""Along the line from a recommendation to a model that a floor names.

A search ends about where its floors begin to be missed. On the way to the model that a floor names it is held
ever more surely; the other way there may be more to be had of all else. The shortlist takes a few points of
that line and decides on items that no search saw.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from evomerge.params import Genome, Mixture
from evomerge.recipe import Group, Recipe
from evomerge.rows import Array, RowWeights
from evomerge.tensors import Place

# of the way to the model; a few percent of it are worth about one percent of what the floor guards
PARTS = (-0.04, -0.02, 0.02, 0.04, 0.06, 0.08, 0.10, 0.12)
ROW_PARTS = (
    -0.08,
    -0.04,
    0.04,
    0.08,
    0.12,
    0.16,
    0.20,
    0.24,
)  # row weights lose less by it, and began farther off


def ways(models: Iterable[str], parts: Sequence[float] = PARTS) -> Iterator[tuple[str, float, str]]:
    """Each model with each part of the way to it, and both in words."""
    for model, part in itertools.product(models, parts):
        way = "nearer to" if part > 0 else "farther from"
        yield model, part, f"{abs(part):.0%} {way} {model}"


def pulled(genome: Genome, mixtures: Sequence[Mixture], model: str, part: float) -> Genome:
    """``genome`` with its weights of sources moved a ``part`` of the way to those of ``model`` alone."""
    moved = list(genome)
    for mixture in mixtures:
        ends = mixture.genes([float(source == model) for source in mixture.sources])
        for axis, end in zip(mixture.axes, ends, strict=True):
            moved[axis] = min(max(moved[axis] + part * (end - moved[axis]), 0.0), 1.0)
    return tuple(moved)


def pulled_rows(recipe: Recipe, places: Mapping[str, Place], model: str, part: float) -> Recipe:
    """The same of a recipe with row weights: each factor times its weight is moved so.

    ``places`` are those of the merged tensors. The factors move and the weights stay, but for a weight of 0, which has no factors. Groups without any stay.
    """
    rows = recipe.body.rows
    if rows is None:
        return recipe

    def moved(weight: Any, source: str) -> Any:
        return weight + part * (float(source == model) - weight)

    vectors: dict[str, dict[str, Array]] = {}
    groups = {id(group): group for group in recipe.groups}
    for tensor, by_source in rows.vectors.items():
        group = recipe.group_of(places[tensor])
        assert group is not None, "row weights are of merged tensors"
        before = _weights(group)
        after = {source: weight or moved(weight, source) for source, weight in before.items()}
        groups[id(group)] = replace(group, values={**group.values, "weight": after})
        vectors[tensor] = {
            source: moved(factors * before[source], source) / before[source]
            for source, factors in by_source.items()
            if before[source]
        }
    body = replace(recipe.body, groups=tuple(groups.values()), rows=RowWeights.of(vectors, rows.by))
    return replace(recipe, body=body)


def _weights(group: Group) -> Mapping[str, float]:
    weights: Any = group.values["weight"]
    return cast(Mapping[str, float], weights)
