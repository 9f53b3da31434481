"""A picture of a recipe: the weight of every source in each block, as a small SVG without anything active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from evomerge.recipe import Recipe
from evomerge.tensors import Place
from evomerge.visible import cut

WEIGHT = "weight"
WIDTH, HEIGHT, LEFT, TOP, FOOT, ROW = 640, 240, 48, 16, 40, 18
NAME = 60  # characters of a name that are shown
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#555555")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")

Curves = dict[str, list[tuple[int, float]]]


def weights_by_layer(recipe: Recipe, places: Sequence[Place]) -> Curves:
    """Source -> block -> mean weight over the tensors of it that have one; a source without any is left out."""
    sums: dict[tuple[str, int], list[float]] = {}
    for place in places:
        found = None if place.layer is None else recipe.group_of(place)
        if found is None or place.layer is None:
            continue
        weights = found.values.get(WEIGHT)
        if len(found.models) == 1 and weights is None:
            weights = {found.models[0]: 1.0}
        for name, weight in weights.items() if isinstance(weights, Mapping) else ():
            if isinstance(weight, (int, float)):
                sums.setdefault((name, place.layer), []).append(float(weight))
    curves: Curves = {}
    for (name, layer), values in sorted(sums.items(), key=lambda item: item[0][1]):
        curves.setdefault(name, []).append((layer, sum(values) / len(values)))
    return {name: curves[name] for name in (*recipe.models, *curves) if name in curves}


def recipe_picture(recipe: Recipe, places: Sequence[Place]) -> str | None:
    """The SVG; None where no method of the recipe has weights."""
    curves = weights_by_layer(recipe, places)
    if not curves:
        return None
    values = [weight for curve in curves.values() for _, weight in curve]
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1.0
    last = max(1, *(layer for curve in curves.values() for layer, _ in curve))
    height = HEIGHT + ROW * len(curves)
    bottom, right = HEIGHT - FOOT, WIDTH - 16

    def x(layer: float) -> float:
        return round(LEFT + (right - LEFT) * layer / last, 1)

    def y(weight: float) -> float:
        return round(bottom - (bottom - TOP) * (weight - low) / (high - low), 1)

    title = "Weight of each source by block: " + "; ".join(
        f"{_name(name)} {min(w for _, w in curve):.2f} to {max(w for _, w in curve):.2f}"
        for name, curve in curves.items()
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for weight in sorted({low, 0.0, high}):
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y(weight)}" y2="{y(weight)}" stroke="#cccccc"/>'
            f'<text x="{LEFT - 6}" y="{y(weight) + 4}" text-anchor="end" fill="#333333">{weight:.2g}</text>'
        )
    for layer in sorted({0, last // 2, last}):
        parts.append(
            f'<text x="{x(layer)}" y="{bottom + 16}" text-anchor="middle" fill="#333333">{layer}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{bottom + 32}" text-anchor="middle" fill="#333333">block</text>'
    )
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dash = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        style = f'fill="none" stroke="{colour}" stroke-width="2"' + (
            f' stroke-dasharray="{dash}"' if dash else ""
        )
        points = " ".join(f"{x(layer)},{y(weight)}" for layer, weight in curve)
        parts.append(f'<polyline points="{points}" {style}/>')
        parts += [
            f'<circle cx="{x(layer)}" cy="{y(weight)}" r="2.5" fill="{colour}"/>'
            for layer, weight in curve
        ]
        row = HEIGHT + ROW * number
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + 24}" y1="{row}" y2="{row}" {style}/>'
            f'<text x="{LEFT + 32}" y="{row + 4}" fill="#111111">{escape(_name(name))}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _name(name: str) -> str:
    return cut(name, NAME)
