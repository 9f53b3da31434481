"""What rounding would take of a merge that is not made, from whole tensors of it, a few of each group.

Whole, since many methods rank the entries of a tensor; a method that surveys its whole group sees only those
tensors here. A path makes no difference: what counts is the merge that it takes blocks of.
"""

from __future__ import annotations

import math
from dataclasses import replace

from evomerge import seeds
from evomerge.merging.blueprint import Blueprint
from evomerge.merging.materializer import Materializer, cores
from evomerge.merging.tally import Tally
from evomerge.parents import Parents
from evomerge.recipe import Recipe
from evomerge.rounding import Rounding

BYTES = 1 << 29  # of sources and base, in float32, that are merged at most


def estimate_rounding(recipe: Recipe, parents: Parents) -> Rounding:
    """See the module's text.

    Raises:
        InputError: as a merge.
        CandidateFailed: a merged tensor is not finite in the recipe's dtype, or has no result.
    """
    recipe = replace(recipe, body=replace(recipe.body, path=None))
    materializer = Materializer(parents, threads=cores())
    blueprint = materializer.outline(None)
    chosen = _chosen(recipe, blueprint)
    sites = [site for site in blueprint.sites if site.name in chosen]
    tally = Tally(recipe, sites, whole=len(sites) == len(blueprint.sites))
    materializer.each(recipe, lambda name, tensor: None, tally=tally, only=chosen)
    return tally.rounding


def _chosen(recipe: Recipe, blueprint: Blueprint) -> frozenset[str]:
    """Names of tensors, drawn from every group in turn, as long as they fit into ``BYTES``."""
    groups: dict[int, list[tuple[float, str, int]]] = {}
    for site in blueprint.sites:
        group = recipe.group_of(site.place)
        if group is not None:
            size = 4 * (len(group.models) + 1) * math.prod(site.shape)
            drawn = seeds.unit("rounding", "tensor", site.name)
            groups.setdefault(id(group), []).append((drawn, site.name, size))
    queues = [sorted(members) for members in groups.values()]
    left, chosen = BYTES, list[str]()
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue) and queue[turn][2] <= left:
                chosen.append(queue[turn][1])
                left -= queue[turn][2]
    return frozenset(chosen)
