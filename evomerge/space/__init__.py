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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evomerge import config, methods
from evomerge.errors import ConfigError
from evomerge.lines import NEUTRAL
from evomerge.params import DIGITS, Derivatives, Genome, Level, Mixture
from evomerge.recipe import BASE, Body, Recipe, group, passing
from evomerge.registry import PARTS
from evomerge.rows import Array, RowWeights, count_of
from evomerge.space import simplex
from evomerge.space.fit import Fit
from evomerge.space.parts import Part
from evomerge.space.parts.methods import SWEEP, everywhere, uniform
from evomerge.space.parts.rows import RowSpec
from evomerge.space.spec import METHODS, SpaceSpec, owners, parse_space
from evomerge.space.start import LOSS, Given, OtherRun, Published, is_recipe_file
from evomerge.tensors import KEPT, Place, coarse, dense

__all__ = ["SWEEP", "SearchSpace", "SpaceSpec", "parse_space"]

AVERAGES = ("linear", "task_arithmetic")  # methods whose merge is a weighted average of the sources


class SearchSpace:
    """A space fitted to a base, named sources and a depth.

    Args:
        spec: the configuration.
        template: a recipe without groups.
        layers: blocks of the merged model.
        places: of its tensors, by name; without, those of a dense model. A space that tells tensors of one
            layer and role apart cannot do without.
        shapes: of its tensors; a space with row weights cannot do without.
        given: the merges of each other run that ``start`` names.

    Attributes:
        dims: the axes, as optimizers see them.
        spec: the configuration it was made from.
        rows: what it says of row weights; None where it has none.
        places: of the tensors of the merged models, by name.
    """

    def __init__(
        self,
        spec: SpaceSpec,
        template: Recipe,
        layers: int,
        places: Mapping[str, Place] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
        *,
        given: Given | None = None,
    ) -> None:
        self.spec, self.layers = spec, layers
        self._given = given or {}
        self.rows: RowSpec | None = spec.parts.get("rows")
        self._shapes = shapes or {}
        self._template = template
        self.sources = tuple(template.models)
        pairs = [(PARTS.get(name), settings) for name, settings in spec.parts.items()]
        if not any(kind.GROUPS for kind, _ in pairs):
            pairs.insert(0, (PARTS.get(METHODS), None))
        pairs.sort(key=lambda pair: not pair[0].GROUPS)  # what draws the groups comes first
        decided = frozenset(name for kind, _ in pairs for name in kind.PARAMETERS)
        if spec.is_fine and not places:
            raise ValueError("a space of single tensors or projections is fitted to their names")
        self.places = places or {}
        named = {role for role in spec.roles if role in KEPT}
        varied = [
            place
            for place in self.places.values()
            if (place.role not in KEPT or place.role in named) and not place.absent
        ]
        if not spec.is_fine:
            varied = coarse(varied, layers) if varied else dense(layers)
        self._places = tuple(varied)
        whole = Fit(spec, self.sources, layers, self._places, decided, self.places)
        self._fixed = [kind(settings, whole) for kind, settings in pairs if kind.FIXED]
        taken = self._with_fixed(Body())
        free = tuple(place for place in self._places if taken.group_of(place) is None)
        self._fit = replace(whole, places=free)
        self._parts: list[Part] = [
            kind(settings, self._fit) for kind, settings in pairs if not kind.FIXED
        ]
        ends = list(itertools.accumulate(len(part.dims) for part in self._parts))
        self._genes = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.dims = tuple(dim for part in self._parts for dim in part.dims)

    # -- genomes and recipes --------------------------------------------------------------------

    def decode(self, genome: Genome) -> Recipe:
        """The recipe that ``genome`` stands for: that of its canonical genome."""
        return self._drawn(genome)[1]

    def canonical(self, genome: Genome) -> Genome:
        """The same recipe's one genome: inactive genes at 0.5, cells at their centres."""
        return self._canonical(genome)[0]

    def pull(self, genome: Genome, found: Derivatives) -> Genome:
        """The derivative by every gene, from those of the recipe of ``genome`` by its coefficients.

        0 along axes that are not smooth. Tensors that the space keeps from one model do not depend on any gene.
        """
        genes, body = self._canonical(genome)
        body = self._parts[-1].draw(genes[self._genes[-1]], body)
        kept = self._with_fixed(Body())
        free = {n: by for n, by in found.items() if kept.group_of(self.places[n]) is None}
        return tuple(
            float(value) if smooth else 0.0
            for part, span in zip(self._parts, self._genes, strict=True)
            for value, smooth in zip(part.pull(genes[span], body, free), part.smooth, strict=True)
        )

    @property
    def smooth(self) -> tuple[bool, ...]:
        """For each axis, whether recipes have slopes along it."""
        return tuple(bool(each) for part in self._parts for each in part.smooth)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels of detail, coarse to fine; the last has every axis by itself."""
        own = [dict(part.levels) for part in self._parts]
        names = dict.fromkeys(name for levels in own for name in levels)
        found = []
        for name in names:
            classes: dict[Any, int] = {}
            numbers = []
            for at, (part, levels) in enumerate(zip(self._parts, own, strict=True)):
                keys = levels.get(name, range(len(part.dims)))
                numbers += [classes.setdefault((at, key), len(classes)) for key in keys]
            found.append(Level(name, tuple(numbers)))
        finest = "tensor" if self.spec.tensors else "all"
        return (*found, Level(finest, tuple(range(len(self.dims)))))

    @property
    def mixtures(self) -> tuple[Mixture, ...]:
        """Axes that weigh sources, each by itself, place by place."""
        return tuple(
            replace(each, axes=tuple(span.start + axis for axis in each.axes))
            for part, span in zip(self._parts, self._genes, strict=True)
            for each in part.mixtures
        )

    def _drawn(self, genome: Genome) -> tuple[Genome, Recipe]:
        """The canonical genome and its recipe."""
        found, body = self._canonical(genome)
        body = self._parts[-1].draw(found[self._genes[-1]], body)
        return found, self._recipe(self._with_fixed(body))

    def _canonical(self, genome: Genome) -> tuple[Genome, Body]:
        """The canonical genome, and what all parts but the last draw by it, one after the other."""
        found: Genome = ()
        body = Body()
        for number, (part, genes) in enumerate(zip(self._parts, self._genes, strict=True)):
            if number:
                body = self._parts[number - 1].draw(found[self._genes[number - 1]], body)
            found += part.canonical(genome[genes], body)
        return found, body

    def row_weights(self, recipe: Recipe) -> RowWeights:
        """Row weights of a recipe of this space that change nothing: a 1 for each row, or column, that may vary."""
        assert self.rows is not None
        kept, by = self._with_fixed(Body()), self.rows.by
        found: dict[str, dict[str, Array]] = {}
        for name, shape in self._shapes.items():
            place = self.places[name]
            group = recipe.group_of(place)
            if group is None or kept.group_of(place) is not None or "weight" not in group.values:
                continue
            weights: Any = group.values["weight"]
            # a weight of 0 has no use for factors
            ones = np.ones(count_of(shape, by), np.float32)
            by_model = {m: ones for m in group.models if weights[m]}
            if by_model:
                found[name] = by_model
        return RowWeights.of(found, by)

    def encode(self, recipe: Recipe) -> Genome | None:
        """The genome of ``recipe``, or None if this space does not hold it."""
        if not self.spec.is_fine and any(group.is_fine for group in recipe.groups):
            return None
        merged = self._merged(recipe)
        for proposal in itertools.product(*(part.read(recipe) for part in self._parts)):
            genome, ours = self._drawn(tuple(itertools.chain(*proposal)))
            if merged == self._merged(ours):
                return genome
        return None

    def _merged(self, recipe: Recipe) -> Body:
        """A body with a group for each place: equal where recipes merge the same."""
        groups = (recipe.group_of(place) for place in self._places)
        plain = (
            group
            and replace(group, layers=None, roles=None, tensors=None, lines=group.lines or NEUTRAL)
            for group in groups
        )
        return replace(recipe.body, groups=tuple(group for group in plain if group))

    # -- known recipes --------------------------------------------------------------------------

    def uniform(self) -> Recipe:
        """The plain average of the sources."""
        return self._recipe(self._with_fixed(uniform(self._fit)))

    def blend(self, weights: Mapping[str, float]) -> Genome | None:
        """The genome of the sources' average with these weights, added to the base where they do not sum to 1.

        Weights are rounded to what recipes resolve; their sum is, too. None if the space does not hold it:
        it has neither ``linear`` nor ``task_arithmetic`` of all sources, or too narrow ranges.
        """
        units = simplex.rounded([simplex.UNITS * weights[name] for name in self.sources])
        values = {"weight": simplex.weights(self.sources, units)}
        for name in AVERAGES:
            if name in self.spec.methods and self.sources in self._fit.teams(name):
                body = everywhere(self._fit, self.sources, name, **values)
                genome = self.encode(self._recipe(self._with_fixed(body)))
                if genome is not None:
                    return genome
        return None

    def only(self, name: str) -> Recipe:
        """One model unchanged: a source, or the base."""
        return replace(self._template, body=Body((passing(name),)))

    def references(self) -> dict[str, Recipe]:
        """Base and parents: what every score is compared with."""
        return {BASE: self.only(BASE), **{name: self.only(name) for name in self.sources}}

    def starts(self) -> dict[str, Recipe]:
        """The known recipes of ``start`` by label, parents excluded (they are references).

        ``uniform`` always is one. What the space keeps is kept in them, recipe files and merges of other
        runs excepted.

        Raises:
            ConfigError: one is impossible here: a method that cannot merge these models, a recipe file
                that is wrong or about others, statistics of other texts.
        """
        found, owner = {"uniform": self.uniform()}, owners(self.spec)
        for name in self.spec.start:
            if isinstance(name, OtherRun):
                found |= self._from_run(name, found)
            elif isinstance(name, Published):
                found[name.name] = self._published(name)
            elif is_recipe_file(name):
                found[name] = replace(self._template, body=self._from_file(name))
            elif name not in ("parents", "uniform"):
                known = owner[name].known(name, self._fit)
                found |= {
                    label: self._recipe(self._with_fixed(body)) for label, body in known.items()
                }
        return found

    def _with_fixed(self, body: Body) -> Body:
        """With what the space fixes, whatever else is merged."""
        for part in self._fixed:
            body = part.draw((), body)
        return body

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
        return self._informed(loaded.body, name)

    @property
    def losses(self) -> dict[str, str]:
        """Known recipes that weigh models by their losses -> what these are of; known once base and parents are
        scored, and equal before."""
        published = (each for each in self.spec.start if isinstance(each, Published))
        return {each.name: each.losses for each in published if each.losses}

    def with_losses(self, recipe: Recipe, losses: Mapping[str, float]) -> Recipe:
        """The same with these losses of the models, where a method takes losses."""
        groups = tuple(
            replace(
                each,
                values={
                    **each.values,
                    LOSS: {model: round(losses[model], DIGITS) for model in each.models},
                },
            )
            if LOSS in each.values
            else each
            for each in recipe.groups
        )
        return replace(recipe, body=replace(recipe.body, groups=groups))

    def _published(self, entry: Published) -> Recipe:
        """A recipe that stands in the space, for models of this depth."""
        problems = config.Problems()
        body = entry.body(self.layers, self.sources, problems, f"start.{entry.name}")
        problems.check()
        return self._joined(self._recipe(self._with_fixed(body)))

    def _from_run(self, other: OtherRun, known: Mapping[str, Recipe]) -> dict[str, Recipe]:
        """The merges of another run by label, those left out that are ``known``."""
        found: dict[str, Recipe] = {}
        for label, body in self._given[other.text].items():
            recipe = self._joined(replace(self._template, body=self._informed(body, label)))
            if all(recipe.body != each.body for each in (*known.values(), *found.values())):
                taken = label in known or label in found  # two runs may have one name
                found[f"{label} ({other.text})" if taken else label] = recipe
        return found

    def _joined(self, recipe: Recipe) -> Recipe:
        """The same merge with every source in it, absent ones at weight 0, where this space holds that.

        Else no optimizer would know the merge of a run that had fewer sources.
        """
        groups = tuple(
            group(
                each.method,
                self.sources,
                {**each.values, "weight": {**dict.fromkeys(self.sources, 0.0), **weights}},
                layers=each.layers,
                roles=each.roles,
                lines=each.lines,
                named=each.tensors,
            )
            if methods.get(each.method).by_row
            and set(each.models) < set(self.sources)
            and isinstance(weights := each.values["weight"], Mapping)
            else each
            for each in recipe.groups
        )
        joined = replace(recipe, body=replace(recipe.body, groups=groups))
        return recipe if self.encode(joined) is None else joined

    def _informed(self, body: Body, name: str) -> Body:
        """With the run's data; ``name`` is for a message if it has other statistics."""
        ours = self._template.body.data
        if body.data and body.data.digest != (ours and ours.digest):
            raise ConfigError(
                [f"{name}: its statistics are of other texts than this run's (data.digest): make "
                 f"{body.data.file} the run's calibration, or leave the recipe out of space.start"]
            )  # fmt: skip
        return body.informed(ours)
