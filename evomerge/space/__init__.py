"""Search spaces: what may vary in a recipe, and the map between genomes and recipes.

A space names only departures from the parameters that methods declare, and may narrow a range,
never widen it. There are two forms:

* ``values``: methods and their parameters, placed over depth and roles (``layout``): in groups of
  layer blocks x roles, each with values of its own, or at knots, interpolated over the layers;
* ``layer_swap``: the outer blocks from one parent, the inner ones from another.

With either, ``lines`` scales by depth what the merge changes, and ``keep`` copies the embedding or
the head from one model.

A genome is a tuple of numbers in [0, 1], one per ``Dim``. Genes that the chosen methods do not read
are inactive and canonicalised, so equal recipes have equal genomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from evomerge.lines import NEUTRAL
from evomerge.params import Dim, Genome
from evomerge.recipe import BASE, Body, Group, Recipe, group
from evomerge.space.layer_swap import LayerSwap
from evomerge.space.spec import SpaceSpec, parse_space
from evomerge.space.starts import SWEEP, known_recipes, uniform
from evomerge.space.values import PlacedMethods
from evomerge.tensors import Place

__all__ = ["SWEEP", "SearchSpace", "SpaceSpec", "parse_space"]


class Form(Protocol):
    """A map between genomes and the groups of a recipe; every method is pure."""

    dims: tuple[Dim, ...]

    def decode(self, genome: Genome) -> tuple[Group, ...]:
        """The groups that a canonical genome stands for; they match every tensor."""

    def canonical(self, genome: Genome) -> Genome:
        """The one genome of the same groups."""

    def proposals(self, recipe: Recipe) -> Iterator[Genome]:
        """Genomes among which that of ``recipe`` is, if this form holds it."""


class SearchSpace:
    """A space fitted to a base, named sources and a depth.

    Attributes:
        dims: the axes, as optimizers see them.
        spec: the configuration it was made from.
    """

    def __init__(self, spec: SpaceSpec, template: Recipe, layers: int) -> None:
        self.spec, self.layers = spec, layers
        self._template = template
        self.sources = tuple(template.models)
        self._kept = tuple(
            group("passthrough", (model,), roles=(role,)) for role, model in spec.keep.items()
        )
        self._places = [place for place in _places(layers) if place.role not in spec.keep]
        self._form: Form = (
            LayerSwap(spec.swap, self.sources, layers)
            if spec.swap
            else PlacedMethods(spec, self.sources, layers, self._places)
        )
        self.dims = (*self._form.dims, *(spec.lines.dims if spec.lines else ()))

    # -- genomes and recipes --------------------------------------------------------------------

    def decode(self, genome: Genome) -> Recipe:
        """The recipe that ``genome`` stands for: that of its canonical genome."""
        genome = self.canonical(genome)
        count = len(self._form.dims)
        groups = self._form.decode(genome[:count])
        if self.spec.lines:
            line = self.spec.lines.decode(genome[count:])
            groups = tuple(replace(each, lines=line) for each in groups)
        return self._recipe((*self._kept, *groups))

    def canonical(self, genome: Genome) -> Genome:
        """The same recipe's one genome: inactive genes at 0.5, cells at their centres."""
        count = len(self._form.dims)
        line = self.spec.lines.canonical(genome[count:]) if self.spec.lines else ()
        return (*self._form.canonical(genome[:count]), *line)

    def encode(self, recipe: Recipe) -> Genome | None:
        """The genome of ``recipe``, or None if this space does not hold it."""
        first = recipe.group_of(self._places[0])
        line = self.spec.lines.encode(first.lines if first else None) if self.spec.lines else ()
        for proposal in self._form.proposals(recipe):
            genome = self.canonical((*proposal, *line))
            decoded = self.decode(genome)
            if all(
                _same(decoded.group_of(place), recipe.group_of(place))
                for place in _places(self.layers)
            ):
                return genome
        return None

    def _recipe(self, groups: Iterable[Group]) -> Recipe:
        t = self._template
        return Recipe(t.base, t.models, Body(tuple(groups)), t.dtype, t.seed, t.tokenizer)

    # -- known recipes --------------------------------------------------------------------------

    def uniform(self) -> Recipe:
        """The plain average of the sources."""
        return self._recipe((*self._kept, *uniform(self.spec, self.sources)))

    def only(self, name: str) -> Recipe:
        """One model unchanged: a source, or the base."""
        return self._recipe([group("passthrough", (name,))])

    def references(self) -> dict[str, Recipe]:
        """Base and parents: what every score is compared with."""
        return {BASE: self.only(BASE), **{name: self.only(name) for name in self.sources}}

    def starts(self) -> dict[str, Recipe]:
        """The known recipes of ``start`` by label, parents excluded (they are references).

        What the space keeps is kept in them, recipe files excepted.
        """
        found = known_recipes(self.spec, self.sources, self.layers)
        return {
            name: self._recipe(groups if name in _files(self.spec) else (*self._kept, *groups))
            for name, groups in found.items()
        }


def _files(spec: SpaceSpec) -> set[str]:
    return {name for name in spec.start if name.endswith((".yaml", ".yml"))}


def _places(layers: int) -> list[Place]:
    """Every layer and role that a model of this depth has tensors in."""
    inside = [Place(layer, role) for layer in range(layers) for role in ("attn", "mlp", "norm")]
    return [*inside, Place(None, "embed"), Place(None, "norm"), Place(None, "head")]


def _same(ours: Group | None, theirs: Group | None) -> bool:
    if ours is None or theirs is None:
        return False
    return (ours.method, ours.models, dict(ours.values), ours.lines or NEUTRAL) == (
        theirs.method,
        theirs.models,
        dict(theirs.values),
        theirs.lines or NEUTRAL,
    )
