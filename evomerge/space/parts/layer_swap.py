"""Layer swapping: the lowest and highest blocks from one parent, those between from another.

    blocks 0 .. bottom-1            the outer parent
    the next ``transition`` blocks  the average of both
    the blocks between              the inner parent
    the next ``transition`` blocks  the average of both
    the last ``top`` blocks         the outer parent
    embedding, final norm, head     the outer parent, or the inner one

Each parent's task vector has a strength (1: the parent itself). There is no transition at an end
that the inner parent reaches, and the inner parent keeps one block at least.

Paper: Bandarkar et al. 2025, Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large Language
    Models, https://arxiv.org/abs/2410.01335
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from evomerge import config
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Choice, Dim, Domain, Genome, Integer, Parameter, Real, Shared
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.space.fit import Fit
from evomerge.space.parts import Part
from evomerge.space.settings import is_domain, parse_setting
from evomerge.space.spec import DEPTH, SpaceSpec
from evomerge.tensors import Place

METHOD = "task_arithmetic"
SIDES = ("outer", "inner")

COUNTS = (
    Parameter("bottom", Shared(Integer(0, DEPTH, 5)), "lowest blocks, from the outer parent"),
    Parameter("top", Shared(Integer(0, DEPTH, 2)), "highest blocks, from the outer parent"),
    Parameter("transition", Shared(Integer(0, DEPTH, 1)), "blocks averaged at each border"),
)
STRENGTH = Parameter("strength", Shared(Real(0, 2, default=1)), "factor of a parent's task vector")


@dataclass(frozen=True)
class Swap:
    """One layer swap. ``strength``: of the outer and the inner parent."""

    outer: str
    inner: str
    bottom: int
    top: int
    transition: int
    strength: tuple[float, float] = (1.0, 1.0)
    outside: str = "outer"

    @property
    def borders(self) -> int:
        """Where the parents meet: 0, 1 or 2."""
        return (self.bottom > 0) + (self.top > 0)

    def fitted(self, layers: int) -> Swap:
        """The same with counts that leave the inner parent one block of ``layers``."""
        bottom = min(self.bottom, layers - 1)
        cut = replace(self, bottom=bottom, top=min(self.top, layers - 1 - bottom))
        spare = layers - cut.bottom - cut.top - 1
        return replace(cut, transition=min(self.transition, spare // max(cut.borders, 1)))

    def groups(self, layers: int) -> tuple[Group, ...]:
        """Groups for a model of ``layers`` blocks, in depth order; the last matches every tensor."""
        swap = self.fitted(layers)
        outer, inner = swap.strength
        weights = {
            "outer": {swap.outer: outer},
            "inner": {swap.inner: inner},
            "both": {swap.outer: outer / 2, swap.inner: inner / 2},
        }
        runs = [
            ("outer", swap.bottom),
            ("both", swap.transition if swap.bottom else 0),
            ("inner", layers - swap.bottom - swap.top - swap.borders * swap.transition),
            ("both", swap.transition if swap.top else 0),
            ("outer", swap.top),
        ]
        groups, first = [], 0
        for part, count in runs:
            if count:
                weight = weights[part]
                blocks = (first, first + count - 1)
                groups.append(group(METHOD, tuple(weight), {"weight": weight}, layers=blocks))
                first += count
        weight = weights[swap.outside]
        return (*groups, group(METHOD, tuple(weight), {"weight": weight}))


def published(outer: str, inner: str, layers: int) -> Swap:
    """The paper's choice for 32 layers (5 bottom, 2 top, 1 averaged), in proportion."""
    bottom, top = (max(1, round(layers * share / 32)) for share in (5, 2))
    return Swap(outer, inner, bottom, top, 1).fitted(layers)


@dataclass(frozen=True)
class SwapSpec:
    """A space of layer swaps as configured: each setting is fixed, a domain, or None (default).

    Attributes:
        outer, inner: the parents; None: the pair is a gene.
        counts: bottom, top, transition.
        strength: of the outer and the inner parent.
        outside: which of them gives embedding, final norm and head.
    """

    outer: str | None
    inner: str | None
    counts: tuple[int | Domain | None, ...]
    strength: tuple[float | Domain, ...]
    outside: str


class LayerSwap(Part):
    """The genes ``parents``, ``bottom``, ``top``, ``transition`` and two strengths, if searched.

    Attributes:
        dims: the axes.
    """

    EXCLUDES: ClassVar[Sequence[str]] = ("groups", "knots")
    GROUPS: ClassVar[bool] = True

    def __init__(self, settings: SwapSpec, fit: Fit) -> None:
        spec, sources, layers = settings, fit.sources, fit.layers
        self._spec, self._layers = spec, layers
        self._pairs = tuple(
            pair
            for pair in itertools.permutations(sources, 2)
            if spec.outer in (None, pair[0]) and spec.inner in (None, pair[1])
        )
        half = max(layers // 2, 1)
        silent = (Integer(0, half, 0), Integer(0, half, 0), Integer(0, min(2, half), 0))
        counts = (
            _up_to(default if setting is None else setting, layers - 1)
            for setting, default in zip(spec.counts, silent, strict=True)
        )
        names = [*(parameter.name for parameter in COUNTS), "strength.outer", "strength.inner"]
        values: dict[str, Any] = dict(zip(names, (*counts, *spec.strength), strict=True))
        self._settings = {"parents": Choice(tuple(range(len(self._pairs))), 0), **values}
        self._searched = {
            name: setting
            for name, setting in self._settings.items()
            if is_domain(setting) and getattr(setting, "size", 2) > 1
        }
        self.dims = tuple(
            Dim(
                name,
                "categorical" if name == "parents" else domain.kind,
                getattr(domain, "size", 0),
            )
            for name, domain in self._searched.items()
        )

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> SwapSpec | None:
        """``true``, or any of outer, inner, bottom, top, transition, strength, outside."""
        if isinstance(node.value, bool):
            if not node.value:
                return None
            node = config.Node({}, node.file, node.line)
        section = config.Section(node, problems, f"{where}.", instead="true")
        parents = {part: section.text(part) or None for part in SIDES}
        for part, name in parents.items():
            if name is not None and name not in sources:
                section.problem(
                    part, f"no source {name!r}{did_you_mean(name, sources)}; {one_of(sources)}"
                )
        if parents["outer"] is not None and parents["outer"] == parents["inner"]:
            section.problem("inner", f"{parents['inner']!r} is the outer parent; name another")
        if len(sources) < 2:
            section.problem("", f"takes two sources, found {len(sources)}")

        def number(item: config.Node | None, key: str, parameter: Parameter, default: Any) -> Any:
            if item is None:
                return default
            setting = parse_setting(item, f"{where}.{key}", [parameter], (), problems)
            if isinstance(setting, Choice):
                problems.add(item, f"{where}.{key}", "expected a number or a range, found choices")
            return setting

        counts = tuple(number(section.get(p.name), p.name, p, None) for p in COUNTS)
        strength: tuple[Any, ...]
        item = section.get("strength")
        if (
            item is not None
            and isinstance(item.value, dict)
            and not {"range", "choices"} & set(item.value)
        ):
            each = config.Section(item, problems, f"{where}.strength.")
            strength = tuple(
                number(each.get(name), f"strength.{name}", STRENGTH, STRENGTH.domain)
                for name in SIDES
            )
            each.finish()
        else:
            strength = (number(item, "strength", STRENGTH, STRENGTH.domain),) * 2
        outside = section.choice("outside", SIDES, "outer")
        section.finish()
        return SwapSpec(parents["outer"], parents["inner"], counts, strength, outside)

    @staticmethod
    def starts() -> Sequence[str]:
        return ("layer_swap",)

    @staticmethod
    def problem(name: str, spec: SpaceSpec, sources: Sequence[str]) -> str | None:
        return None if len(sources) > 1 else f"{name} takes two sources, found {len(sources)}"

    @staticmethod
    def known(name: str, fit: Fit) -> Mapping[str, Body]:
        """The paper's swap of every pair of parents that the space allows."""
        spec, found = fit.spec.parts.get("layer_swap"), {}
        for outer, inner in itertools.permutations(fit.sources, 2):
            if not spec or (spec.outer in (None, outer) and spec.inner in (None, inner)):
                swap = published(outer, inner, fit.layers)
                found[f"{name} {outer} around {inner}"] = Body(swap.groups(fit.layers))
        return found

    def draw(self, genes: Genome, body: Body) -> Body:
        return replace(body, groups=self._swap(genes).groups(self._layers))

    def canonical(self, genes: Genome, body: Body) -> Genome:
        return self._genes(self._swap(genes))

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        blocks = [recipe.group_of(Place(layer, "mlp")) for layer in range(self._layers)]
        outside = recipe.group_of(Place(None, "norm"))
        if any(found is None or found.method != METHOD for found in (*blocks, outside)):
            return
        parts = [found.models for found in blocks if found]
        for outer, inner in self._pairs:
            bottom, top = _leading(parts, (outer,)), _leading(parts[::-1], (outer,))
            between = parts[bottom : len(parts) - top]
            transition = _leading(between if bottom else between[::-1], (outer, inner))
            weights: dict[str, float] = {}
            for found in (*blocks, outside):
                if found is not None and len(found.models) == 1:
                    weight: Any = found.values["weight"]
                    weights.update(weight)
            strength = (weights.get(outer, 1.0), weights.get(inner, 1.0))
            swap = Swap(
                outer, inner, bottom, top, transition, strength=strength, outside=self._spec.outside
            )
            yield self._genes(swap.fitted(self._layers))

    def _swap(self, genome: Genome) -> Swap:
        genes = dict(zip(self._searched, genome, strict=True))
        values: dict[str, Any] = {
            name: setting.decode(genes.get(name, 0.5)) if is_domain(setting) else setting
            for name, setting in self._settings.items()
        }
        outer, inner = self._pairs[values["parents"]]
        return Swap(
            outer,
            inner,
            bottom=values["bottom"],
            top=values["top"],
            transition=values["transition"],
            strength=(float(values["strength.outer"]), float(values["strength.inner"])),
            outside=self._spec.outside,
        ).fitted(self._layers)

    def _genes(self, swap: Swap) -> Genome:
        """The one genome of a swap: genes that it does not show stand at 0.5 or come first."""
        pair = (swap.outer, swap.inner)
        values = {
            "bottom": swap.bottom,
            "top": swap.top,
            "transition": swap.transition if swap.borders else None,
            "strength.outer": swap.strength[0],
            "strength.inner": swap.strength[1],
        }
        if not swap.borders and swap.outside == "inner":  # nothing comes from the outer parent
            pair = next(each for each in self._pairs if each[1] == swap.inner)
            values["strength.outer"] = None
        values["parents"] = self._pairs.index(pair)
        return tuple(
            0.5 if values[name] is None else domain.encode(values[name])
            for name, domain in self._searched.items()
        )


def _up_to(setting: int | Domain, most: int) -> int | Domain:
    """A count that fits: no more than ``most``."""
    if isinstance(setting, Integer):
        return replace(setting, low=min(setting.low, most), high=min(setting.high, most))
    assert isinstance(setting, int)
    return min(setting, most)


def _leading(items: Sequence[tuple[str, ...]], wanted: tuple[str, ...]) -> int:
    """How many of the first items are ``wanted``."""
    return sum(1 for _ in itertools.takewhile(lambda item: item == wanted, items))
