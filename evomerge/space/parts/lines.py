"""LiNeS in a space: two genes over depth, whatever the merge methods are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge import config
from evomerge.lines import HEADS, LINES, NEUTRAL, PARAMETERS, Lines, line_factor
from evomerge.params import ALL, Derivatives, Dim, Domain, Genome, Real
from evomerge.recipe import Body, Recipe, group
from evomerge.space import simplex
from evomerge.space.fit import Fit
from evomerge.space.parts import Part
from evomerge.space.settings import encode, is_domain, parse_setting


@dataclass(frozen=True)
class LineSpec:
    """What a space says of LiNeS: each of alpha and beta is fixed or searched.

    A line that changes nothing (alpha 1, beta 0) is no line in a recipe.
    """

    alpha: float | Domain
    beta: float | Domain
    head: str = HEADS[0]

    @property
    def domains(self) -> dict[str, float | Domain]:
        """Of alpha and beta: a fixed value, or what is searched."""
        return {"alpha": self.alpha, "beta": self.beta}

    @property
    def dims(self) -> tuple[Dim, ...]:
        """``lines.alpha`` and ``lines.beta``, those that are searched."""
        return tuple(
            Dim(f"lines.{name}", domain.kind, getattr(domain, "size", 0))
            for name, domain in self.domains.items()
            if is_domain(domain)
        )

    def decode(self, genes: Sequence[float]) -> Lines | None:
        remaining = iter(genes)
        alpha, beta = (
            setting.decode(next(remaining)) if is_domain(setting) else setting
            for setting in self.domains.values()
        )
        found = Lines(float(alpha), float(beta), self.head)  # type: ignore[arg-type]
        return None if (found.alpha, found.beta) == (NEUTRAL.alpha, NEUTRAL.beta) else found

    def encode(self, lines: Lines | None) -> tuple[float, ...]:
        """Genes of ``lines``, as near as this space comes."""
        lines = lines or NEUTRAL
        genes = []
        for name, setting in self.domains.items():
            if is_domain(setting):
                gene = encode(setting, getattr(lines, name))
                genes.append(0.5 if gene is None else gene)
        return tuple(genes)

    def canonical(self, genes: Sequence[float]) -> tuple[float, ...]:
        return self.encode(self.decode(genes))


class LinesPart(Part):
    """The genes ``lines.alpha`` and ``lines.beta``, those that are searched."""

    def __init__(self, settings: LineSpec, fit: Fit) -> None:
        self._spec, self._first, self._place_of = settings, fit.places[0], fit.place_of
        self.dims = settings.dims

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> LineSpec | None:
        """``true``, or alpha and beta as a number or a range each; None for ``false``."""
        if isinstance(node.value, bool):
            domains = [parameter.domain for parameter in PARAMETERS]
            return LineSpec(domains[0], domains[1]) if node.value else None
        section = config.Section(node, problems, f"{where}.", instead="true")
        settings: dict[str, Any] = {}
        for parameter in PARAMETERS:
            item = section.get(parameter.name)
            settings[parameter.name] = (
                parse_setting(item, f"{where}.{parameter.name}", [parameter], (), problems)
                if item
                else parameter.domain
            )
        head = section.choice("head", HEADS, HEADS[0])
        section.finish()
        return LineSpec(**settings, head=head)

    @staticmethod
    def starts() -> Sequence[str]:
        return ("lines",)

    @staticmethod
    def known(name: str, fit: Fit) -> Mapping[str, Body]:
        """LiNeS of the sum of all task vectors: their average in the first block, their sum in the last."""
        count, summing = len(fit.sources), "weight" in fit.decided
        weights: Any = simplex.even(fit.sources) if summing else 1.0
        total = 1 if summing else count
        settings = fit.spec.parts.get("lines")
        head = settings.head if settings else HEADS[0]
        line = Lines(round(1 / total, 4), round((count - 1) / total, 4), head)
        added = group("task_arithmetic", fit.sources, {"weight": weights}, lines=line)
        return {name: Body((added,))}

    def draw(self, genes: Genome, body: Body) -> Body:
        line = self._spec.decode(genes)
        return replace(body, groups=tuple(replace(each, lines=line) for each in body.groups))

    def canonical(self, genes: Genome, body: Body) -> Genome:
        return self._spec.canonical(genes)

    @property
    def smooth(self) -> Sequence[bool]:
        return [True] * len(self.dims)

    def pull(self, genes: Genome, body: Body, found: Derivatives) -> Sequence[float]:
        spec = self._spec
        by = dict.fromkeys(("alpha", "beta"), 0.0)
        for name, by_parameter in found.items():
            value = by_parameter.get(LINES, {}).get(ALL, 0.0)
            place = self._place_of[name]
            for parameter, unit in (
                ("alpha", Lines(1, 0, spec.head)),
                ("beta", Lines(0, 1, spec.head)),
            ):
                by[parameter] += line_factor(unit, place) * value
        searched = [name for name, domain in spec.domains.items() if is_domain(domain)]
        rates = (
            domain.rate(gene) if isinstance(domain := spec.domains[name], Real) else 0.0
            for name, gene in zip(searched, genes, strict=True)
        )
        return [rate * by[name] for name, rate in zip(searched, rates, strict=True)]

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        first = recipe.group_of(self._first)
        yield self._spec.encode(first.lines if first else None)
