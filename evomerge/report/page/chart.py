"""Pictures: Vega-Lite specifications, drawn to SVG when the page is made, so that it needs no script.

What Vega draws is parsed, and only what shapes and texts are made of is kept: no link, style, script or
foreign element passes, whatever stands in the data. Colours are variables of the page's style, with the light
ones to fall back on; what a mark says of itself (``description``) becomes its tooltip.

Data is only ever data here: no string from a record stands in an expression or as the name of a field.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import vl_convert

from evomerge.visible import one_line

Spec = dict[str, Any]

# name -> the light colour; dark ones are in page.css. Series are told apart by colour-blind readers, too
# (after Okabe & Ito), and by shape or place besides.
COLOURS: Mapping[str, str] = {
    "ink": "#1f2328",
    "soft": "#59636e",
    "line": "#afb8c1",
    "grid": "#e4e8ec",
    "paper": "#ffffff",
    "one": "#0b62a8",
    "two": "#c2470a",
    "three": "#017a56",
    "four": "#9a3d86",
    "five": "#8a6100",
    "six": "#4a5568",
}
SERIES = ("one", "two", "three", "four", "five", "six")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
WIDTH = 680

_SVG = "http://www.w3.org/2000/svg"
_TAGS = {"svg", "g", "path", "rect", "text", "tspan", "line", "circle", "defs", "clipPath"}
_KEPT = {
    *("transform", "d", "x", "y", "x1", "y1", "x2", "y2", "dx", "dy", "r", "cx", "cy", "width", "height"),
    *("viewBox", "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity"),
    *("stroke-linecap", "stroke-miterlimit", "opacity", "text-anchor", "font-size", "font-weight"),
    *("font-style", "clip-path", "id"),
}  # fmt: skip
_SAFE = re.compile(r"[-\w\s.,:;#%()'\"+]*")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_VARIABLE = re.compile(r"var\(--[a-z]+, (#[0-9a-f]{6})\)")


def colour(name: str) -> str:
    """A colour of the page, as a value of a picture."""
    return f"var(--{name}, {COLOURS[name]})"


def apart(field: str, names: Sequence[str], colours: Sequence[str] = SERIES) -> Spec:
    """Encodings that tell series apart, by colour and by shape; of many, some look alike.

    Args:
        field: has their names.
        names: as they stand in the data.
        colours: by name.
    """
    base = {"field": field, "type": "nominal", "title": None}
    drawn = [colour(colours[n % len(colours)]) for n in range(len(names))]
    shapes = [_SHAPES[n % len(_SHAPES)] for n in range(len(names))]
    return {
        "color": {**base, "scale": {"domain": names, "range": drawn}},
        "shape": {**base, "scale": {"domain": names, "range": shapes}},
    }


def rows(values: Sequence[Mapping[str, Any]]) -> Spec:
    """``data`` of a specification."""
    return {"values": values}


def places(field: str, count: int) -> Spec:
    """The y of rows that go by their number, ``"0"`` on top, whose labels are drawn by ``labels``: two may be alike."""
    numbers = [f"{at}" for at in range(count)]
    return {
        "field": field,
        "type": "nominal",
        "title": None,
        "sort": numbers,
        "scale": {"domain": numbers},
        "axis": {"labels": False},
    }


def labels(y: Spec) -> Spec:
    """A layer: what stands under ``name``, left of its row."""
    return {
        "mark": {"type": "text", "align": "right", "x": -10, "color": colour("ink")},
        "encoding": {"y": y, "text": {"field": "name"}},
    }


def zero() -> Spec:
    """A layer: where x is 0."""
    return {
        "mark": {"type": "rule", "color": colour("line")},
        "encoding": {"x": {"datum": 0, "type": "quantitative"}},
    }


def intervals(x: Spec, y: Spec, apart: Spec, size: int) -> list[Spec]:
    """Two layers: lines from ``low`` to ``high``, and marks at ``x`` that say what stands under ``says``."""
    return [
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {
                "y": y,
                "x": {**x, "field": "low"},
                "x2": {"field": "high"},
                "color": apart["color"],
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": size},
            "encoding": {"x": x, "y": y, **apart, "description": {"field": "says"}},
        },
    ]


def draw(spec: Spec) -> str:
    """The picture of a Vega-Lite specification, cleaned, as an ``<svg>`` of as much room as there is.

    Its texts are made safe to show here, wherever they stand in it.
    """
    schema = "https://vega.github.io/schema/vega-lite/v5.json"
    full = {"$schema": schema, **_visible(spec), "config": _CONFIG}
    text = vl_convert.vegalite_to_svg(full, vl_version="5.20", allowed_base_urls=[])
    text = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)  # Vega reads escapes in titles
    root = ElementTree.fromstring(text)
    _clean(
        root, f"c{zlib.crc32(text.encode()):08x}-"
    )  # ids are the page's: pictures must not share them
    width, height = root.attrib.pop("width"), root.attrib.pop("height")
    root.attrib.setdefault("viewBox", f"0 0 {width} {height}")
    return _written(root)


def _visible(spec: Any) -> Any:
    """Its texts without control characters."""
    if isinstance(spec, Mapping):
        return {key: _visible(value) for key, value in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [_visible(value) for value in spec]
    return one_line(spec) if isinstance(spec, str) else spec


def standalone(svg: str) -> str:
    """A picture that ``draw`` made as a file of its own: light, on paper, with a font."""
    root = ElementTree.fromstring(_VARIABLE.sub(lambda found: found[1], svg))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib |= {"width": width, "height": height, "font-family": "system-ui, sans-serif"}
    paper = {"width": width, "height": height, "rx": "6", "fill": COLOURS["paper"]}
    root.insert(0, ElementTree.Element(f"{{{_SVG}}}rect", paper))
    return _written(root) + "\n"


def _written(root: ElementTree.Element) -> str:
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, prefix: str) -> None:
    """Keep what shapes and texts are made of, below ``element`` and of it."""
    said = element.attrib.get("aria-label", "")
    is_mark = element.attrib.get("aria-roledescription", "") not in ("axis", "legend", "title")
    kept = {k: v for k, v in element.attrib.items() if k in _KEPT and _SAFE.fullmatch(v)}
    if "id" in kept:
        kept["id"] = prefix + kept["id"]
    if "clip-path" in kept:
        inner = kept.pop("clip-path").removeprefix("url(#").removesuffix(")").strip("'\"")
        kept["clip-path"] = f"url(#{prefix}{inner})"
    element.attrib.clear()
    element.attrib.update(kept)
    for child in list(element):
        tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
        gone = child.attrib.get("opacity") == "0" or child.attrib.get("display") == "none"
        if tag not in _TAGS or gone:
            element.remove(child)
            continue
        _clean(child, prefix)
        if tag == "g" and not len(child):
            element.remove(child)
    if said and is_mark and not len(element) and not element.text:
        title = ElementTree.SubElement(element, f"{{{_SVG}}}title")
        title.text = said


_CONFIG: Spec = {
    "background": None,
    "font": "system-ui",
    "view": {"stroke": None},
    "axis": {
        "labelColor": colour("soft"),
        "titleColor": colour("soft"),
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 12,
        "labelLimit": 230,
        "gridColor": colour("grid"),
        "domainColor": colour("line"),
        "tickColor": colour("line"),
        "tickSize": 4,
        "labelPadding": 6,
        "titlePadding": 10,
    },
    "axisY": {"domain": False, "ticks": False},
    "legend": {
        "labelColor": colour("ink"),
        "titleColor": colour("soft"),
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 260,
        "orient": "top",
        "direction": "horizontal",
        "symbolOpacity": 1,
        "offset": 12,
    },
    "header": {
        "labelColor": colour("ink"),
        "labelFontSize": 12,
        "labelFontWeight": 600,
        "labelLimit": 300,
        "title": None,
    },
    "point": {"filled": True, "size": 60, "opacity": 1},
    "rule": {"color": colour("soft")},
    "text": {"color": colour("ink"), "fontSize": 12},
}
