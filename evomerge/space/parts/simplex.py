"""Weights of a group that sum to 1, placed over depth and roles as all values are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from evomerge import config, methods
from evomerge.errors import did_you_mean
from evomerge.params import Derivatives, Dim, Genome
from evomerge.recipe import BASE, Body, Recipe
from evomerge.space import simplex
from evomerge.space.fit import Fit, Team
from evomerge.space.parts import Part
from evomerge.tensors import Place

SIMPLEX = "simplex"


class Simplex(Part):
    """``weights: simplex``; the genes ``weight.model@spot``, of every model but a group's last.

    A gene is inactive where the group there has no weights, does not merge the model or takes it last.
    """

    PARAMETERS: ClassVar[Sequence[str]] = ("weight",)

    def __init__(self, settings: str, fit: Fit) -> None:
        self._layout, self._methods = fit.layout, fit.spec.methods
        self._place_of = fit.place_of
        teams = [team for name in fit.spec.methods if _weighs(name) for team in fit.teams(name)]
        models = [m for m in (*fit.sources, BASE) if any(m in team[:-1] for team in teams)]
        spots = self._layout.spots
        names = [(spot, model) for spot in range(len(spots)) for model in models]
        self._index = {name: index for index, name in enumerate(names)}
        suffix = [f"@{label}" if len(spots) > 1 else "" for label in spots]
        self.dims = tuple(Dim(f"weight.{model}{suffix[spot]}", "real") for spot, model in names)
        # where the values of a spot show as they are
        self._shown: dict[int, Place] = {}
        for place in fit.places:
            region = self._layout.region_of(place)
            if len(region.blend) == 1:
                self._shown.setdefault(region.nearest, place)

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> str | None:
        """The word."""
        if node.plain == SIMPLEX:
            return SIMPLEX
        hint = did_you_mean(str(node.plain), (SIMPLEX,))
        problems.add(node, where, f"expected {SIMPLEX}, found {config.shown(node.plain)}{hint}")
        return None

    def draw(self, genes: Genome, body: Body) -> Body:
        groups = []
        for region, each in zip(self._layout.regions, body.groups, strict=True):
            if _weighs(each.method):
                rows = [self._units(genes, spot, each.models) for spot, _ in region.blend]
                units = simplex.blend(rows, [share for _, share in region.blend])
                weights = simplex.weights(each.models, units)
                each = replace(each, values={**each.values, "weight": weights})
            groups.append(each)
        return replace(body, groups=tuple(groups))

    def canonical(self, genes: Genome, body: Body) -> Genome:
        found = [0.5] * len(genes)
        for spot, place in self._shown.items():
            group = body.group_of(place)
            if group is not None and _weighs(group.method):
                units = self._units(genes, spot, group.models)
                self._set(found, spot, group.models, units)
        return tuple(found)

    @property
    def smooth(self) -> Sequence[bool]:
        """All, where every method that weighs is smooth in its weights."""
        weighing = [methods.get(name) for name in self._methods if _weighs(name)]
        return [all("weight" in method.smooth for method in weighing)] * len(self.dims)

    def pull(self, genes: Genome, body: Body, found: Derivatives) -> Sequence[float]:
        slope = [0.0] * len(self.dims)
        for name, by_parameter in found.items():
            place = self._place_of[name]
            group = body.group_of(place)
            if group is None or not _weighs(group.method):
                continue
            by_model = by_parameter.get("weight", {})
            for spot, share in self._layout.region_of(place).blend:
                own = [self._index[spot, model] for model in group.models[:-1]]
                for at, rates in zip(own, simplex.rates([genes[n] for n in own]), strict=True):
                    slope[at] += share * sum(
                        rate * by_model.get(model, 0.0)
                        for rate, model in zip(rates, group.models, strict=True)
                    )
        return slope

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        found = [0.5] * len(self.dims)
        for spot, place in self._shown.items():
            group = recipe.group_of(place)
            weights: Any = group and group.values.get("weight")
            if group is None or not isinstance(weights, dict):
                continue
            if any((spot, model) not in self._index for model in group.models[:-1]):
                return
            units = [round(weights[model] * simplex.UNITS) for model in group.models]
            self._set(found, spot, group.models, units)
        yield tuple(found)

    def _units(self, genes: Genome, spot: int, team: Team) -> tuple[int, ...]:
        """The weights of ``team`` at ``spot``."""
        return simplex.decode([genes[self._index[spot, model]] for model in team[:-1]])

    def _set(self, genes: list[float], spot: int, team: Team, units: Sequence[int]) -> None:
        for model, gene in zip(team[:-1], simplex.encode(units), strict=True):
            genes[self._index[spot, model]] = gene


def _weighs(method: str) -> bool:
    """True if the method has a weight a model."""
    return any(p.name == "weight" and p.per_model for p in methods.get(method).parameters)
