"""Methods, the models they merge, and their parameters, placed over depth and roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from evomerge import config, methods
from evomerge.methods import Method
from evomerge.params import Derivatives, Dim, Domain, Genome, Kind, Mixture, Parameter, Real
from evomerge.recipe import BASE, Body, Group, Recipe, group
from evomerge.space import simplex
from evomerge.space.fit import Fit, Team
from evomerge.space.layout import Region
from evomerge.space.parts import Part
from evomerge.space.settings import encode, is_domain
from evomerge.space.spec import SpaceSpec
from evomerge.tensors import Place

SWEEP = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # equal weights of the task-arithmetic baseline


@dataclass(frozen=True)
class _MethodGene:
    zone: int


@dataclass(frozen=True)
class _TeamGene:
    """Which models take part, where a method takes fewer than there are."""

    zone: int
    teams: tuple[Team, ...]


@dataclass(frozen=True)
class _ValueGene:
    spot: int
    parameter: str
    model: str | None


_Gene = _MethodGene | _TeamGene | _ValueGene


class Methods(Part):
    """One gene for each choice of a method, for each choice of models, for each searched parameter.

    Attributes:
        dims: the axes: ``method@zone``, ``models@zone``, ``parameter.model@spot``; what there is
            one of only is not named.
    """

    GROUPS: ClassVar[bool] = True

    def __init__(self, settings: None, fit: Fit) -> None:
        spec, sources = fit.spec, fit.sources
        self._spec, self._places, self._decided = spec, fit.places, fit.decided
        self._layout, self._depth, self._place_of = fit.layout, fit.layers, fit.place_of
        self._methods = [methods.get(name) for name in spec.methods]
        self._teams = {name: fit.teams(name) for name in spec.methods}
        self._models = (*sources, BASE)
        self._domains: dict[tuple[str, str, str | None], Domain | None] = {}
        genes: dict[_Gene, Dim] = dict(
            [*self._method_genes(), *self._team_genes(), *self._value_genes()]
        )
        self._index = {gene: index for index, gene in enumerate(genes)}
        self.dims = tuple(genes.values())

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> None:
        """Its keys are those of the space itself: ``SpaceSpec``."""

    @staticmethod
    def starts() -> Sequence[str]:
        return ("uniform", *methods.names())

    @classmethod
    def usual(cls, spec: SpaceSpec) -> Sequence[str]:
        return ("uniform", "task_arithmetic", *spec.methods)

    @staticmethod
    def problem(name: str, spec: SpaceSpec, sources: Sequence[str]) -> str | None:
        if name not in methods.names():
            return None
        return methods.get(name).arity_problem(len(spec.team(name, sources)), True)

    @staticmethod
    def known(name: str, fit: Fit) -> Mapping[str, Body]:
        """``uniform``, or a method on every tensor; of task arithmetic a sweep over equal weights."""
        if name == "uniform":
            return {name: uniform(fit)}
        team = fit.spec.team(name, fit.sources)
        if name == "task_arithmetic":
            return {
                f"{name} {weight:g}": everywhere(fit, team, name, weight=weight) for weight in SWEEP
            }
        return {name: everywhere(fit, team, name)}

    # -- genes ----------------------------------------------------------------------------------

    def _method_genes(self) -> Iterator[tuple[_MethodGene, Dim]]:
        if len(self._methods) < 2:
            return
        for number, zone in enumerate(self._layout.zones):
            if self._spec.method_gene == "global":
                yield _MethodGene(0), Dim("method", "categorical", len(self._methods))
                return
            name = f"method@{zone.label}" if zone.label else "method"
            yield _MethodGene(number), Dim(name, "categorical", len(self._methods))

    def _team_genes(self) -> Iterator[tuple[_TeamGene, Dim]]:
        named = {teams: name for name, teams in reversed(self._teams.items()) if len(teams) > 1}
        for number, zone in enumerate(self._layout.zones):
            for teams in dict.fromkeys(self._teams.values()):
                if teams in named:
                    name = "models" if len(named) == 1 else f"models.{named[teams]}"
                    suffix = f"@{zone.label}" if zone.label and len(self._layout.zones) > 1 else ""
                    yield _TeamGene(number, teams), Dim(name + suffix, "categorical", len(teams))

    def _value_genes(self) -> Iterator[tuple[_ValueGene, Dim]]:
        for spot, label in enumerate(self._layout.spots):
            suffix = f"@{label}" if len(self._layout.spots) > 1 else ""
            for name in dict.fromkeys(p.name for m in self._methods for p in m.parameters):
                for model in (*self._models, None):
                    domains = [
                        domain
                        for method in self._methods
                        if any(model in (*team, None) for team in self._teams[method.name])
                        and (domain := self._domain(method, name, model)) is not None
                    ]
                    if domains:
                        full = f"{name}.{model}{suffix}" if model else f"{name}{suffix}"
                        yield _ValueGene(spot, name, model), _dim(full, domains[0])

    def _domain(self, method: Method, name: str, model: str | None) -> Domain | None:
        """The domain of a searched parameter of ``method``, or None if it is absent or fixed."""
        key = method.name, name, model
        if key not in self._domains:
            self._domains[key] = self._domain_of(method, name, model)
        return self._domains[key]

    def _domain_of(self, method: Method, name: str, model: str | None) -> Domain | None:
        for parameter in method.parameters:
            if parameter.name == name and parameter.per_model == (model is not None):
                setting = self._setting(parameter, model)
                return setting if is_domain(setting) else None
        return None

    def _setting(self, parameter: Parameter, model: str | None) -> Any:
        """A fixed value or a domain; a parameter that another part draws is fixed here."""
        if parameter.name in self._decided and parameter.per_model:
            return parameter.default
        return self._spec.setting(parameter, model)

    @property
    def smooth(self) -> Sequence[bool]:
        """Those of real parameters by which some method that has them is smooth: where it merges, there are slopes."""
        return [
            isinstance(gene, _ValueGene)
            and self.dims[index].kind == "real"
            and any(
                gene.parameter in method.smooth
                for method in self._methods
                if self._domain(method, gene.parameter, gene.model) is not None
            )
            for gene, index in self._index.items()
        ]

    @property
    def levels(self) -> Sequence[tuple[str, Sequence[int]]]:
        """Values for the model; of a space of single tensors for halves of it by role, and for layers by role, too."""
        if len(self._layout.spots) < 2:
            return ()
        places = [Place(None, "other")] * len(self._layout.spots)
        keys: dict[str, Callable[[Place], Any]] = {"model": lambda place: None}
        if self._spec.tensors:
            half = self._depth / 2
            regions = self._layout.regions
            places = [self._place_of[region.tensors[0]] for region in regions if region.tensors]
            keys |= {
                "group": lambda at: (at.role, at.layer is not None and at.layer >= half),
                "layer x role": lambda at: (at.role, at.layer),
            }
        found = []
        for name, key in keys.items():
            classes: dict[Any, int] = {}
            numbers = []
            for gene in self._index:
                at: Any = gene
                if isinstance(gene, _ValueGene):
                    at = gene.parameter, gene.model, key(places[gene.spot])
                numbers.append(classes.setdefault(at, len(classes)))
            found.append((name, numbers))
        return found

    @property
    def mixtures(self) -> Sequence[Mixture]:
        """The weights of each spot, where all methods mean the same range by them."""
        found: dict[int, list[tuple[int, str, tuple[float, float]]]] = {}
        for gene, axis in self._index.items():
            if not isinstance(gene, _ValueGene) or gene.parameter != "weight" or not gene.model:
                continue
            domains = {self._domain(m, gene.parameter, gene.model) for m in self._methods} - {None}
            domain = domains.pop()
            if domains or not isinstance(domain, Real) or domain.scale != "linear":
                continue
            if domain.low < domain.high:
                entry = axis, gene.model, (domain.low, domain.high)
                found.setdefault(gene.spot, []).append(entry)
        return [Mixture(*zip(*entries, strict=True)) for entries in found.values()]

    # -- genomes and groups ---------------------------------------------------------------------

    def _method_at(self, genome: Genome, zone: int) -> Method:
        index = self._index.get(_MethodGene(0 if self._spec.method_gene == "global" else zone))
        return self._methods[0 if index is None else _cell(genome[index], len(self._methods))]

    def _team_at(self, genome: Genome, zone: int, method: Method) -> Team:
        teams = self._teams[method.name]
        index = self._index.get(_TeamGene(zone, teams))
        return teams[0 if index is None else _cell(genome[index], len(teams))]

    def draw(self, genes: Genome, body: Body) -> Body:
        return replace(
            body, groups=tuple(self._group(genes, region) for region in self._layout.regions)
        )

    def _group(self, genome: Genome, region: Region) -> Group:
        zone = self._layout.zone_of(region.nearest)
        method = self._method_at(genome, zone)
        team = self._team_at(genome, zone, method)
        values: dict[str, Any] = {}
        for parameter in method.parameters:
            name = parameter.name
            if not parameter.per_model:
                values[name] = self._value(genome, region, method, name, None)
            else:
                values[name] = {m: self._value(genome, region, method, name, m) for m in team}
        return group(
            method.name,
            team,
            values,
            layers=region.layers,
            roles=region.roles,
            named=region.tensors,
        )

    def _value(
        self, genome: Genome, region: Region, method: Method, name: str, model: str | None
    ) -> Any:
        domain = self._domain(method, name, model)
        if domain is None:
            parameter = next(p for p in method.parameters if p.name == name)
            return self._setting(parameter, model)
        genes = {
            spot: genome[self._index[_ValueGene(spot, name, model)]] for spot, _ in region.blend
        }
        if isinstance(domain, Real):
            return domain.decode(sum(share * genes[spot] for spot, share in region.blend))
        return domain.decode(genes[region.nearest])

    def canonical(self, genes: Genome, body: Body) -> Genome:
        genome, fixed = genes, []
        for gene, index in self._index.items():
            value = 0.5
            if isinstance(gene, _MethodGene):
                value = _centre(genome[index], len(self._methods))
            elif isinstance(gene, _TeamGene):
                if self._teams[self._method_at(genome, gene.zone).name] == gene.teams:
                    value = _centre(genome[index], len(gene.teams))
            else:
                zone = self._layout.zone_of(gene.spot)
                method = self._method_at(genome, zone)
                team = self._team_at(genome, zone, method)
                domain = self._domain(method, gene.parameter, gene.model)
                if domain is not None and gene.model in (*team, None):
                    value = domain.encode(domain.decode(genome[index]))
            fixed.append(value)
        return tuple(fixed)

    def pull(self, genes: Genome, body: Body, found: Derivatives) -> Sequence[float]:
        slope = [0.0] * len(self.dims)
        for name, by_parameter in found.items():
            region = self._layout.region_of(self._place_of[name])
            zone = self._layout.zone_of(region.nearest)
            method = self._method_at(genes, zone)
            for parameter, by_model in by_parameter.items():
                for model, value in by_model.items():
                    domain = self._domain(method, parameter, model or None)
                    if not isinstance(domain, Real):
                        continue
                    gene = sum(
                        share * genes[self._index[_ValueGene(spot, parameter, model or None)]]
                        for spot, share in region.blend
                    )
                    for spot, share in region.blend:
                        at = self._index[_ValueGene(spot, parameter, model or None)]
                        slope[at] += share * domain.rate(gene) * value
        return slope

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        """The one genome that can be that of ``recipe``, or none."""
        at_spot: dict[int, Group] = {}
        for place in self._places:
            region = self._layout.region_of(place)
            found = recipe.group_of(place)
            if len(region.blend) == 1 and found is not None:
                at_spot.setdefault(region.blend[0][0], found)
        if len(at_spot) < len(self._layout.spots) or any(
            found.method not in self._teams or found.models not in self._teams[found.method]
            for found in at_spot.values()
        ):
            return
        genes = [0.5] * len(self.dims)
        for gene, index in self._index.items():
            spot = (
                gene.spot
                if isinstance(gene, _ValueGene)
                else self._layout.zones[gene.zone].spots[0]
            )
            found = at_spot[spot]
            if isinstance(gene, _MethodGene):
                number = self._spec.methods.index(found.method)
                genes[index] = (number + 0.5) / len(self._methods)
            elif isinstance(gene, _TeamGene):
                if found.models in gene.teams:
                    genes[index] = (gene.teams.index(found.models) + 0.5) / len(gene.teams)
            elif (value := self._encode(gene, found)) is not None:
                genes[index] = value
        yield tuple(genes)

    def _encode(self, gene: _ValueGene, found: Group) -> float | None:
        """The gene that gives ``found`` its value, None where it has none."""
        method = methods.get(found.method)
        domain = self._domain(method, gene.parameter, gene.model)
        value: Any = found.values.get(gene.parameter)
        if domain is None or gene.model not in (*found.models, None):
            return None
        if isinstance(value, Mapping):
            value = value.get(gene.model)
        return None if value is None else encode(domain, value)


def _dim(name: str, domain: Domain) -> Dim:
    kind: Kind = domain.kind
    return Dim(name, kind, 0 if isinstance(domain, Real) else domain.size)


def _cell(gene: float, size: int) -> int:
    return min(int(gene * size), size - 1)


def _centre(gene: float, size: int) -> float:
    return (_cell(gene, size) + 0.5) / size


def uniform(fit: Fit) -> Body:
    """The plain average."""
    weights = {"weight": simplex.even(fit.sources)} if "weight" in fit.decided else None
    return Body((group("linear", fit.sources, weights),))


def everywhere(fit: Fit, team: Team, name: str, **values: Any) -> Body:
    """A method on every tensor: values given, else fixed by the space, else its defaults."""
    spec = fit.spec
    for parameter in methods.get(name).parameters:
        models = team if parameter.per_model else (None,)
        settings = {model: spec.setting(parameter, model) for model in models}
        chosen = {
            model: setting.default if is_domain(setting) else setting
            for model, setting in settings.items()
        }
        if parameter.name == "weight" and parameter.per_model and "weight" in fit.decided:
            values.setdefault("weight", simplex.even(team))
        values.setdefault(parameter.name, chosen if parameter.per_model else chosen[None])
    return Body((group(name, team, values),))
