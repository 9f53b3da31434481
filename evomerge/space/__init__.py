"""Search spaces: what may vary in a recipe, and the map between genomes and recipes.

A space names only departures from the parameters that methods declare, and may narrow a range,
never widen it. It is a list of parts (``evomerge.space.parts``), each with genes of its own: methods
and their parameters placed over depth and roles, or a layer swap; then LiNeS, then plugins' parts;
what is kept from one model comes in front.

A genome is a tuple of numbers in [0, 1], one per ``Dim``. Genes that the chosen methods do not read
are inactive and canonicalised, so equal recipes have equal genomes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evomerge.errors import ConfigError
from evomerge.lines import NEUTRAL
from evomerge.params import Genome
from evomerge.recipe import BASE, Body, Group, Recipe, group
from evomerge.registry import PARTS
from evomerge.space.parts import Fit, Part
from evomerge.space.parts.methods import SWEEP, uniform
from evomerge.space.spec import SpaceSpec, parse_space
from evomerge.tensors import places

__all__ = ["SWEEP", "SearchSpace", "SpaceSpec", "parse_space"]


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
        free = tuple(place for place in places(layers) if place.role not in spec.kept)
        self._fit = Fit(spec, self.sources, layers, free)
        chosen = dict(spec.parts) if "layer_swap" in spec.parts else {"methods": None, **spec.parts}
        kept = {name: settings for name, settings in chosen.items() if PARTS.get(name).FIXED}
        self._parts: list[Part] = [
            PARTS.get(name)(settings, self._fit)
            for name, settings in {
                **{n: s for n, s in chosen.items() if n not in kept},
                **kept,
            }.items()
        ]
        ends = list(itertools.accumulate(len(part.dims) for part in self._parts))
        self._genes = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.dims = tuple(dim for part in self._parts for dim in part.dims)

    # -- genomes and recipes --------------------------------------------------------------------

    def decode(self, genome: Genome) -> Recipe:
        """The recipe that ``genome`` stands for: that of its canonical genome."""
        genome, body = self.canonical(genome), Body()
        for part, genes in zip(self._parts, self._genes, strict=True):
            body = part.draw(genome[genes], body)
        return self._recipe(body)

    def canonical(self, genome: Genome) -> Genome:
        """The same recipe's one genome: inactive genes at 0.5, cells at their centres."""
        pairs = zip(self._parts, self._genes, strict=True)
        return tuple(gene for part, genes in pairs for gene in part.canonical(genome[genes]))

    def encode(self, recipe: Recipe) -> Genome | None:
        """The genome of ``recipe``, or None if this space does not hold it."""
        for proposal in itertools.product(*(part.read(recipe) for part in self._parts)):
            genome = self.canonical(tuple(itertools.chain(*proposal)))
            decoded = self.decode(genome)
            if all(
                _same(decoded.group_of(place), recipe.group_of(place))
                for place in places(self.layers)
            ):
                return genome
        return None

    # -- known recipes --------------------------------------------------------------------------

    def uniform(self) -> Recipe:
        """The plain average of the sources."""
        return self._known(uniform(self._fit))

    def only(self, name: str) -> Recipe:
        """One model unchanged: a source, or the base."""
        return replace(self._template, body=Body((group("passthrough", (name,)),)))

    def references(self) -> dict[str, Recipe]:
        """Base and parents: what every score is compared with."""
        return {BASE: self.only(BASE), **{name: self.only(name) for name in self.sources}}

    def starts(self) -> dict[str, Recipe]:
        """The known recipes of ``start`` by label, parents excluded (they are references).

        ``uniform`` always is one. What the space keeps is kept in them, recipe files excepted.

        Raises:
            ConfigError: one is impossible here: a method that cannot merge these models, a recipe file
                that is wrong or about others.
        """
        found = {"uniform": self.uniform()}
        for name in self.spec.start:
            if name.endswith((".yaml", ".yml")):
                found[name] = replace(self._template, body=self._from_file(name))
            elif name not in ("parents", "uniform"):
                known = (PARTS.get(part).known(name, self._fit) for part in self._answering())
                bodies = next(bodies for bodies in known if bodies)
                found |= {label: self._known(body) for label, body in bodies.items()}
        return found

    def _answering(self) -> Iterator[str]:
        """Names of the parts that know recipes: the built-in ones, and those of this space."""
        yield from dict.fromkeys((*PARTS.built_in, *self.spec.parts))

    def _known(self, body: Body) -> Recipe:
        for part in self._parts:
            if part.FIXED:
                body = part.draw((), body)
        return self._recipe(body)

    def _recipe(self, body: Body) -> Recipe:
        """With the run's data, where a method takes statistics: parts need not know of it."""
        return replace(self._template, body=body.informed(self._template.body.data))

    def _from_file(self, name: str) -> Body:
        loaded = Recipe.load(Path(self.spec.origin) / name)
        if tuple(loaded.models) != self.sources:
            raise ConfigError(
                [
                    f"{name}: its sources are {', '.join(loaded.models)}; this run's are "
                    f"{', '.join(self.sources)}"
                ]
            )
        ours = self._template.body.data
        if loaded.body.data and loaded.body.data.digest != (ours and ours.digest):
            raise ConfigError(
                [f"{name}: its statistics are of other texts than this run's (data.digest): make "
                 f"{loaded.body.data.file} the run's calibration, or leave the recipe out of space.start"]
            )  # fmt: skip
        return loaded.body.informed(ours)


def _same(ours: Group | None, theirs: Group | None) -> bool:
    if ours is None or theirs is None:
        return False
    return (ours.method, ours.models, dict(ours.values), ours.lines or NEUTRAL) == (
        theirs.method,
        theirs.models,
        dict(theirs.values),
        theirs.lines or NEUTRAL,
    )
