"""Search spaces: what may vary in a recipe, and the map between genomes and recipes.

A space names only departures from the parameters that methods declare, and may narrow a range,
never widen it. It places values in one of two ways:

* ``groups``: layer blocks x roles, each with values of its own, and a last group for what no other
  matches (embedding, final norm, head);
* ``knots``: values placed at a few depths and interpolated over the layers, per role class.

A genome is a tuple of numbers in [0, 1], one per ``Dim``. Genes that the chosen methods do not read
are inactive and canonicalised, so equal recipes have equal genomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.params import Choice, Dim, Domain, Genome, Integer, Parameter, Real
from evomerge.recipe import BASE, Group, Recipe, group
from evomerge.space.spec import STARTS, SpaceSpec, expanded, parse_space
from evomerge.tensors import ROLES, Place

__all__ = ["SWEEP", "SearchSpace", "SpaceSpec", "parse_space"]

SWEEP = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # equal weights of the task-arithmetic baseline


@dataclass(frozen=True)
class _Region:
    """Tensors decoded into one group: where it lies and which sites its values come from."""

    layers: tuple[int, int] | None
    roles: tuple[str, ...] | None
    blend: tuple[tuple[int, float], ...]  # (site, share), shares add up to 1

    def matches(self, place: Place) -> bool:
        return Group("", {}, (), self.layers, self.roles).matches(place)

    @property
    def nearest(self) -> int:
        return max(self.blend, key=lambda pair: pair[1])[0]


@dataclass(frozen=True)
class _Gene:
    """One dimension: the method of a method site, or a parameter (of a model) at a value site."""

    dim: Dim
    site: int
    parameter: str | None = None  # None: this is a method gene
    model: str | None = None


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
        self._methods = {name: methods.get(name) for name in spec.methods}
        self._sites, self._regions, self._choices = self._lay_out()
        self._genes = self._make_genes()
        self.dims = tuple(gene.dim for gene in self._genes)
        self._index = {(g.site, g.parameter, g.model): i for i, g in enumerate(self._genes)}

    # -- layout ---------------------------------------------------------------------------------

    def _lay_out(self) -> tuple[list[str], list[_Region], list[tuple[str, list[int]]]]:
        """Site labels; regions, in matching order; label and sites of what may choose a method.

        Together the regions match every tensor.
        """
        classes: list[tuple[str, ...] | None] = [(role,) for role in self.spec.roles] or [None]
        if self.spec.knots:
            return self._lay_knots(classes, self.spec.knots)
        sites: list[str] = []
        regions: list[_Region] = []

        def add(label: str, layers: tuple[int, int] | None, roles: tuple[str, ...] | None) -> None:
            regions.append(_Region(layers, roles, ((len(sites), 1.0),)))
            sites.append(label)

        for block in self._blocks():
            for roles in classes:
                depth = (f"{block[0]}-{block[1]}",) if block else ()
                if (block or roles) and not (block and _outside(roles)):
                    add(".".join((*depth, *(roles or ()))), block, roles)
        if self.spec.blocks:
            for roles in filter(_outside, classes):
                assert roles is not None
                add(roles[0], None, roles)
        if self.spec.blocks or not self._roles_cover_all:
            add("rest" if sites else "all", None, None)
        return sites, regions, [(label, [site]) for site, label in enumerate(sites)]

    def _blocks(self) -> list[tuple[int, int] | None]:
        """First and last layer of each block; [None] if depth makes no difference."""
        count = min(self.spec.blocks or 0, self.layers)
        if not count:
            return [None]
        edges = [round(i * self.layers / count) for i in range(count + 1)]
        return [(low, high - 1) for low, high in pairwise(edges)]

    @property
    def _roles_cover_all(self) -> bool:
        return expanded(self.spec.roles) >= set(ROLES)

    def _lay_knots(
        self, classes: list[tuple[str, ...] | None], wanted: int
    ) -> tuple[list[str], list[_Region], list[tuple[str, list[int]]]]:
        count = min(wanted, self.layers)
        # knots stand on whole layers, so that a recipe shows their values and can be encoded again
        depths = [round(i * (self.layers - 1) / max(count - 1, 1)) for i in range(count)]
        if None not in classes and not self._roles_cover_all:
            classes = [*classes, None]
        sites: list[str] = []
        regions: list[_Region] = []
        choices: list[tuple[str, list[int]]] = []  # knots cannot blend methods: one a class
        for roles in classes:
            first = len(sites)
            if _outside(roles):
                sites += roles or ()
                regions.append(_Region(None, roles, ((first, 1.0),)))
            else:
                sites += [".".join([f"{depth}", *(roles or ())]) for depth in depths]
                for layer in range(self.layers):
                    regions.append(_Region((layer, layer), roles, _between(depths, layer, first)))
                # outside the blocks: the embedding is the shallow end, final norm and head the deep
                inside = expanded(roles) if roles else None
                if inside is None or "embed" in inside:
                    regions.append(_Region(None, ("embed",), ((first, 1.0),)))
                if inside is None:
                    regions.append(_Region(None, None, ((first + count - 1, 1.0),)))
                elif deep := tuple(r for r in ("norm", "head") if r in inside):
                    regions.append(_Region(None, deep, ((first + count - 1, 1.0),)))
            choices.append((roles[0] if roles else "", list(range(first, len(sites)))))
        return sites, regions, choices

    def _method_sites(self) -> list[tuple[str, list[int]]]:
        """Label and value sites of each method choice."""
        if self.spec.method_gene == "global" or len(self._methods) == 1:
            return [("", list(range(len(self._sites))))]
        return self._choices

    def _make_genes(self) -> list[_Gene]:
        genes: list[_Gene] = []
        self._method_of_site: dict[int, int] = {}
        for number, (label, sites) in enumerate(self._method_sites()):
            self._method_of_site.update(dict.fromkeys(sites, number))
            if len(self._methods) > 1:
                name = f"method@{label}" if label else "method"
                genes.append(_Gene(Dim(name, "categorical", len(self._methods)), number))
        for site, label in enumerate(self._sites):
            suffix = f"@{label}" if len(self._sites) > 1 else ""
            for name in dict.fromkeys(p.name for m in self._methods.values() for p in m.parameters):
                for model in (*self.sources, None):
                    domains = [
                        domain
                        for method in self._methods.values()
                        if (domain := self._domain(method, name, model)) is not None
                    ]
                    if domains:
                        first = domains[0]
                        size = 0 if isinstance(first, Real) else first.size
                        dim = Dim(
                            f"{name}.{model}{suffix}" if model else f"{name}{suffix}",
                            first.kind,
                            size,
                        )
                        genes.append(_Gene(dim, site, name, model))
        return genes

    def _setting(self, parameter: Parameter, model: str | None) -> Any:
        """What the space says of a parameter: a fixed value or a domain; the declaration's if silent."""
        setting = self.spec.parameters.get(parameter.name)
        if isinstance(setting, Mapping):
            setting = setting.get(model) if model else None
        if setting is not None:
            return setting
        return parameter.domain if parameter.searched else parameter.default

    def _domain(self, method: methods.Method, name: str, model: str | None) -> Domain | None:
        """The domain of a searched parameter of ``method``, or None if it is absent or fixed."""
        for parameter in method.parameters:
            if parameter.name == name and parameter.per_model == (model is not None):
                setting = self._setting(parameter, model)
                return setting if isinstance(setting, (Real, Integer, Choice)) else None
        return None

    # -- genomes and recipes --------------------------------------------------------------------

    def _method_at(self, genome: Genome, site: int) -> methods.Method:
        number = self._method_of_site[site]
        index = self._index.get((number, None, None))
        names = list(self._methods)
        if index is None:
            return self._methods[names[0]]
        return self._methods[names[min(int(genome[index] * len(names)), len(names) - 1)]]

    def decode(self, genome: Genome) -> Recipe:
        """The recipe that ``genome`` stands for: that of its canonical genome."""
        genome = self.canonical(genome)
        return self._recipe([self._decode_region(genome, region) for region in self._regions])

    def _recipe(self, groups: Sequence[Group]) -> Recipe:
        t = self._template
        return Recipe(t.base, t.models, tuple(groups), t.dtype, t.seed, t.tokenizer)

    def _decode_region(self, genome: Genome, region: _Region) -> Group:
        method = self._method_at(genome, region.nearest)
        values: dict[str, Any] = {}
        for parameter in method.parameters:
            if parameter.per_model:
                values[parameter.name] = {
                    model: self._decode_value(genome, region, method, parameter, model)
                    for model in self.sources
                }
            else:
                values[parameter.name] = self._decode_value(genome, region, method, parameter, None)
        return group(method.name, self.sources, values, layers=region.layers, roles=region.roles)

    def _decode_value(
        self,
        genome: Genome,
        region: _Region,
        method: methods.Method,
        parameter: Parameter,
        model: str | None,
    ) -> Any:
        domain = self._domain(method, parameter.name, model)
        if domain is None:
            return self._setting(parameter, model)
        genes = {site: genome[self._index[site, parameter.name, model]] for site, _ in region.blend}
        if isinstance(domain, Real):
            return domain.decode(sum(share * genes[site] for site, share in region.blend))
        return domain.decode(genes[region.nearest])

    def canonical(self, genome: Genome) -> Genome:
        """The same recipe's one genome: inactive genes at 0.5, cells at their centres."""
        fixed: list[float] = []
        for gene, value in zip(self._genes, genome, strict=True):
            if gene.parameter is None:
                fixed.append(
                    (min(int(value * gene.dim.size), gene.dim.size - 1) + 0.5) / gene.dim.size
                )
                continue
            domain = self._domain(self._method_at(genome, gene.site), gene.parameter, gene.model)
            fixed.append(0.5 if domain is None else domain.encode(domain.decode(value)))
        return tuple(fixed)

    def encode(self, recipe: Recipe) -> Genome | None:
        """The genome of ``recipe``, or None if this space does not hold it."""
        genes = [0.5] * len(self._genes)
        at_site: dict[int, Group] = {}
        for place in self._places():
            region = next(region for region in self._regions if region.matches(place))
            found = recipe.group_of(place)
            if len(region.blend) == 1 and found is not None:
                at_site.setdefault(region.blend[0][0], found)
        names = list(self._methods)
        for index, gene in enumerate(self._genes):
            site = gene.site
            if gene.parameter is None:
                site = next(s for s, number in self._method_of_site.items() if number == gene.site)
            found = at_site.get(site)
            if found is None or found.method not in names:
                return None
            if gene.parameter is None:
                genes[index] = (names.index(found.method) + 0.5) / len(names)
                continue
            domain = self._domain(self._methods[found.method], gene.parameter, gene.model)
            value = found.values.get(gene.parameter)
            if isinstance(value, Mapping):
                value = value.get(gene.model) if gene.model else None
            if domain is not None and value is not None:
                if isinstance(domain, Choice) and value not in domain.options:
                    return None
                genes[index] = domain.encode(value)
        genome = self.canonical(tuple(genes))
        decoded = self.decode(genome)
        same = all(_same(decoded.group_of(p), recipe.group_of(p)) for p in self._places())
        return genome if same else None

    def _places(self) -> list[Place]:
        inside = [
            Place(layer, role) for layer in range(self.layers) for role in ("attn", "mlp", "norm")
        ]
        return [*inside, Place(None, "embed"), Place(None, "norm"), Place(None, "head")]

    # -- known recipes --------------------------------------------------------------------------

    def uniform(self) -> Recipe:
        """The plain average of the sources."""
        return self._recipe([group("linear", self.sources)])

    def only(self, name: str) -> Recipe:
        """One model unchanged: a source, or the base."""
        return self._recipe([group("passthrough", (name,))])

    def references(self) -> dict[str, Recipe]:
        """Base and parents: what every score is compared with."""
        return {BASE: self.only(BASE), **{name: self.only(name) for name in self.sources}}

    def starts(self) -> dict[str, Recipe]:
        """The known recipes of ``start`` by label, parents excluded (they are references)."""
        found: dict[str, Recipe] = {"uniform": self.uniform()}
        for name in self.spec.start:
            if name in STARTS:
                continue
            if name.endswith((".yaml", ".yml")):
                found[name] = self._from_file(name)
            elif name == "task_arithmetic":
                for weight in SWEEP:
                    found[f"task_arithmetic {weight:g}"] = self._known(name, weight=weight)
            elif methods.get(name).arity_problem(len(self.sources), True) is None:
                found[name] = self._known(name)
        return found

    def _known(self, name: str, **values: Any) -> Recipe:
        """A method on every tensor: values given, else fixed by the space, else its defaults."""
        for parameter in methods.get(name).parameters:
            models = self.sources if parameter.per_model else (None,)
            settings = {model: self._setting(parameter, model) for model in models}
            chosen = {
                model: setting.default if isinstance(setting, (Real, Integer, Choice)) else setting
                for model, setting in settings.items()
            }
            values.setdefault(parameter.name, chosen if parameter.per_model else chosen[None])
        return self._recipe([group(name, self.sources, values)])

    def _from_file(self, name: str) -> Recipe:
        loaded = Recipe.load(Path(self.spec.origin) / name)
        if tuple(loaded.models) != self.sources:
            raise ConfigError(
                [
                    f"{name}: its sources are {', '.join(loaded.models)}; this run's are {', '.join(self.sources)}"
                ]
            )
        return self._recipe(loaded.groups)


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


def _same(ours: Group | None, theirs: Group | None) -> bool:
    if ours is None or theirs is None:
        return False
    return (ours.method, ours.models, dict(ours.values)) == (
        theirs.method,
        theirs.models,
        dict(theirs.values),
    )
