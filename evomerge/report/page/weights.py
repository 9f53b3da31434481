"""What the winner is made of: its parameters by depth and kind of tensor, beside the best known recipe and parents.

Where tensors sit is read from the groups of a recipe, and from names of tensors where groups name these: no
model is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import InputError
from evomerge.evolution.archive.best import best
from evomerge.evolution.history import Phase
from evomerge.recipe import Body, Group
from evomerge.report.page import chart
from evomerge.report.page.material import Material
from evomerge.report.page.parts import (
    Block,
    Cell,
    Facts,
    Figure,
    Grid,
    Listing,
    Notes,
    Row,
    Section,
    number,
    shade,
    short,
)
from evomerge.tensors import FINE, ROLES, Place

_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")
_FACETS = 12
_EVERYWHERE = "all tensors"
_PARENTS = (0.0, 1.0)  # of a parent itself, the others have weight 0
Known = Mapping[tuple[str, str, str, int | None], float]
"""(parameter, source, kind, layer) -> a number of the best known recipe, at the places of the winner."""


@dataclass(frozen=True)
class Value:
    """A parameter of one source at one place; ``layer`` is None outside the blocks, and where layers are alike."""

    parameter: str
    source: str
    kind: str
    layer: int | None
    value: float


def weights(material: Material) -> Section | None:
    """The section; None before there is a merge to speak of."""
    if material.chosen is None:
        return None
    body = material.history.candidates[material.chosen].recipe.body
    depth = _depth(body)
    found = list(values(body))
    beside = _best_start(material, found)
    blocks: list[Block] = [Facts(_facts(body))]
    layered = [v for v in found if v.layer is not None]
    for parameter in dict.fromkeys(v.parameter for v in layered):
        blocks.append(_figure(parameter, layered, beside, depth))
    blocks += [_heat(parameter, found) for parameter in dict.fromkeys(v.parameter for v in found)]
    if not found:
        blocks.append(Notes(["Its groups have no parameter with a number for each source."]))
    try:
        blocks.append(
            Listing("The whole recipe", material.record.recipe(material.chosen).to_yaml())
        )
    except InputError as error:
        blocks.append(Notes([f"The recipe cannot be written: {error}"]))
    name = material.name(material.chosen)
    lead = f"Parameters of {name}, by depth and kind of tensor. "
    if beside is not None:
        lead += f"Dashed lines are those of {beside[0]}, the best of the known recipes by search score, where it has them. "
    if any(v.parameter == "weight" and v.layer is not None for v in found):
        lead += "Dotted lines are parents: each has weight 1 of itself, and 0 of the others."
    return Section("weights", "What it is made of", lead, blocks)


def _facts(body: Body) -> list[tuple[str, str]]:
    methods: dict[str, int] = {}
    for group in body.groups:
        methods[group.method] = methods.get(group.method, 0) + 1
    listed = ", ".join(
        f"{name} in {count} groups" if count > 1 else name for name, count in methods.items()
    )
    found = [("methods", listed)]
    shared = {
        (key, value)
        for group in body.groups
        for key, value in group.values.items()
        if not isinstance(value, Mapping) and value is not None
    }
    if 0 < len(shared) <= 12:
        texts = sorted(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shared)
        found.append(("shared parameters", ", ".join(texts)))
    if any(group.lines for group in body.groups):
        lines = {
            f"alpha {g.lines.alpha:.3g}, beta {g.lines.beta:.3g}" for g in body.groups if g.lines
        }
        found.append(("scaled over depth (LiNeS)", "; ".join(sorted(lines))))
    if body.path:
        hops = [f"{hop.model or 'merge'} {hop.layer}" for hop in body.path]
        found.append(("layer path", short(", ".join(hops), 400)))
    if body.rows:
        found.append(
            ("row weights", f"factors row by row, in a file of sha256 {body.rows.sha256[:12]}")
        )
    return found


def values(body: Body) -> Iterator[Value]:
    """Every number that a source has in ``body``, place by place."""
    by_name = [group for group in body.groups if group.tensors is not None]
    for group in by_name:
        for name in group.tensors or ():
            kind, layer = _placed(name)
            yield from _of(group, kind, layer)
    plain = [group for group in body.groups if group.tensors is None]
    roles = list(dict.fromkeys(r for group in plain for r in group.roles or ()))
    kinds = [
        *roles,
        *(
            [_EVERYWHERE if not roles else "the rest"]
            if any(g.roles is None for g in plain)
            else []
        ),
    ]
    layered = any(group.layers is not None for group in plain)
    for kind in kinds:
        for layer in range(_depth(body)) if layered else [None]:
            place = Place(layer, kind if kind in roles else "")
            hit = next((g for g in plain if place.within(g.layers, g.roles)), None)
            if hit is not None:
                yield from _of(hit, kind, layer)


def _of(group: Group, kind: str, layer: int | None) -> Iterator[Value]:
    for parameter, values in group.values.items():
        if isinstance(values, Mapping):
            for source, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield Value(parameter, source, kind, layer, float(value))
        elif parameter == "t" and isinstance(values, (int, float)):
            yield Value(parameter, "t", kind, layer, float(values))


def _placed(name: str) -> tuple[str, int | None]:
    """The kind of a tensor and the number of its block, by its name."""
    short_name = name.removeprefix("model.").removesuffix(".weight")
    hit = _BLOCK.search(short_name)
    if hit is None:
        return short_name, None
    return short_name[hit.end() :] or short_name, int(hit[1])


def _depth(body: Body) -> int:
    """Blocks of the models, as far as ``body`` names them."""
    last = [group.layers[1] for group in body.groups if group.layers]
    names = (name for group in body.groups for name in group.tensors or ())
    last += [layer for name in names if (layer := _placed(name)[1]) is not None]
    return max(last, default=-1) + 1


def _best_start(material: Material, found: list[Value]) -> tuple[str, Known] | None:
    """The best known recipe, and its parameters at the places of ``found``; None where none is scored."""
    elite = best(material.history.elites(Phase.START))
    if not elite:
        return None
    candidate = material.history.candidates[elite[0].candidate]
    return candidate.origin, known_at(candidate.recipe.body, found)


def known_at(body: Body, found: list[Value]) -> Known:
    """The parameters of ``body`` at the places of ``found``, as far as it has numbers there.

    Groups of layers and roles hold tensors that go by their names, too: the module that a tensor sits in says its role.
    """
    by_name: dict[tuple[str, int | None], Group] = {}
    for group in body.groups:
        for name in group.tensors or ():
            by_name.setdefault(_placed(name), group)
    plain = [group for group in body.groups if group.tensors is None]
    known: dict[tuple[str, str, str, int | None], float] = {}
    for kind, layer in dict.fromkeys((v.kind, v.layer) for v in found):
        place = Place(layer, _role(kind))
        hit = by_name.get((kind, layer))
        hit = hit or next((g for g in plain if place.within(g.layers, g.roles)), None)
        for value in _of(hit, kind, layer) if hit is not None else ():
            known[value.parameter, value.source, kind, layer] = value.value
    return known


def _role(kind: str) -> str:
    """The role of a kind of tensor; empty where it has none, or its name does not tell."""
    if kind in ROLES or kind in FINE or kind == "other":
        return kind
    words = re.split(r"[._]", kind)
    named = {"attention": "attn", "layernorm": "norm", "lm": "head"}
    if "norm" in words or "layernorm" in words:
        return "norm"
    return next((role for word in words if (role := named.get(word, word)) in ROLES), "")


def _figure(
    parameter: str, layered: list[Value], beside: tuple[str, Known] | None, depth: int
) -> Figure:
    own = [v for v in layered if v.parameter == parameter]
    kinds = list(dict.fromkeys(v.kind for v in own))
    shown = kinds[:_FACETS]
    sources = list(dict.fromkeys(v.source for v in own))
    known = beside[1] if beside else {}
    marks: list[dict[str, Any]] = [
        {
            "x": v.layer,
            "y": v.value,
            "known": known.get((parameter, v.source, v.kind, v.layer)),
            "source": v.source,
            "kind": short(v.kind, 30),
            "says": f"{v.kind}, layer {v.layer}, {v.source}: {number(v.value)}",
        }
        for v in own
        if v.kind in shown
    ]
    if parameter == "weight":
        marks += [{"parent": y, "kind": short(kind, 30)} for kind in shown for y in _PARENTS]
    apart = chart.apart("source", sources)
    fill = {"color": apart["color"]}
    columns = min(3, len(shown))
    x = {
        "field": "x",
        "type": "quantitative",
        "title": "layer",
        "axis": {"tickMinStep": 1, "format": "d", "grid": False, "tickCount": min(depth, 8)},
        "scale": {"domain": [0, max(1, depth - 1)], "nice": False},
    }
    y = {"field": "y", "type": "quantitative", "title": None, "axis": {"tickCount": 4}}
    spec: chart.Spec = {
        "data": chart.rows(marks),
        "facet": {"field": "kind", "type": "nominal", "sort": [short(k, 30) for k in shown]},
        "columns": columns,
        "spacing": 26,
        "spec": {
            "width": (chart.WIDTH - 30) // columns - 42,
            "height": 120,
            "layer": [
                {
                    "transform": [{"filter": "isValid(datum.parent)"}],
                    "mark": {"type": "rule", "strokeDash": [1, 3], "color": chart.colour("soft")},
                    "encoding": {"y": {**y, "field": "parent"}},
                },
                {
                    "transform": [{"filter": "isValid(datum.known)"}],
                    "mark": {"type": "line", "strokeWidth": 1.5, "strokeDash": [5, 4], "opacity": 0.75},
                    "encoding": {"x": x, "y": {**y, "field": "known"}, **fill},
                },
                {
                    "transform": [{"filter": "isValid(datum.y)"}],
                    "mark": {"type": "line", "strokeWidth": 2},
                    "encoding": {"x": x, "y": y, **fill},
                },
                {
                    "transform": [{"filter": "isValid(datum.y)"}],
                    "mark": {"type": "point", "filled": True, "size": 40},
                    "encoding": {
                        "x": x,
                        "y": y,
                        **apart,
                        "description": {"field": "says"},
                    },
                },
            ],
        },
    }  # fmt: skip
    more = (
        f" Of {len(kinds)} kinds of tensors the first {len(shown)} are drawn."
        if len(kinds) > len(shown)
        else ""
    )
    words = f"{parameter} of {', '.join(sources)} over {depth} layers, one panel for each kind of tensor.{more}"
    return Figure(f"{parameter}, by layer", words, chart.draw(spec))


def _heat(parameter: str, found: list[Value]) -> Grid:
    """Places by sources."""
    own = [v for v in found if v.parameter == parameter]
    sources = list(dict.fromkeys(v.source for v in own))
    places = dict.fromkeys((v.kind, v.layer) for v in own)
    at = {(v.kind, v.layer, v.source): v.value for v in own}
    middle = sum(v.value for v in own) / len(own)
    span = max(abs(v.value - middle) for v in own)

    def cell(key: tuple[str, int | None, str]) -> Cell:
        value = at.get(key)
        return Cell(number(value), None if value is None else shade(value, middle, span))

    rows: list[Row] = [
        [kind, "" if layer is None else str(layer), *(cell((kind, layer, s)) for s in sources)]
        for kind, layer in places
    ]
    caption = f"{parameter}, by tensor and source (shades around its mean, {number(middle)})"
    return Grid.of(caption, ("tensors", "layer", *sources), rows, folded=len(rows) > 14)
