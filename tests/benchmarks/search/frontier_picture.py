"""The frontier as a picture: every recipe a mark, over how much of chat's English it keeps.

Plain SVG. On the left sea's words, on the right the combination. Pale marks are known recipes, the stairs
the best of them that hold a floor; black ones are means of searches' winners, with intervals over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tests.benchmarks.search.frontier_rows import NAMES, SEARCHES, Reached, Scale, Winners

WIDTH, HEIGHT = 480, 400  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 34, 44  # around what is drawn
LOWEST = 88.0  # percent of chat's English
COLOURS = {
    "task_arithmetic": "#0072b2",
    "widen": "#d55e00",
    "ties": "#009e73",
    "dare_ties": "#cc79a7",
}
# A mark's outline in units of its radius; None is a circle.
SHAPES: dict[str, Sequence[tuple[float, float]] | None] = {
    "task_arithmetic": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "widen": ((0, -1.3), (1.2, 1), (-1.2, 1)),
    "ties": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    "dare_ties": ((0, 1.3), (1.2, -1), (-1.2, -1)),
}


@dataclass(frozen=True)
class Panel:
    """Axes: ``x`` is percent of chat's English kept; ``y`` from ``low`` to ``high``."""

    at: float
    title: str
    low: float
    high: float
    step: float
    digits: int

    def x(self, value: float) -> float:
        return self.at + LEFT + (value - LOWEST) / (100 - LOWEST) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return (
            HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)
        )

    def axes(self) -> Iterator[str]:
        left, right, bottom = self.x(LOWEST), self.x(100), self.y(self.low)
        for number in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + number * self.step
            yield _line((left, self.y(value)), (right, self.y(value)), "#ddd")
            yield _text(left - 6, self.y(value) + 4, f"{value:.{self.digits}f}", "end")
        for tick in range(int(LOWEST), 101, 2):
            yield _line((self.x(tick), self.y(self.high)), (self.x(tick), bottom), "#ddd")
            yield _text(self.x(tick), bottom + 16, str(tick), "middle")
        yield _text((left + right) / 2, HEIGHT - 8, "chat_en kept, % of chat's", "middle")
        yield _text((left + right) / 2, TOP - 14, self.title, "middle")


def picture(rows: Sequence[Reached]) -> str:
    """The whole, as SVG."""
    scale = Scale.of(rows)
    panels: list[tuple[Panel, Callable[[Reached], float]]] = [
        (Panel(0, "plain_sea kept, % of sea's", 65, 100, 5, 0), scale.kept),
        (
            Panel(WIDTH, "combination: mean of chat_sea and write_sea", 0.3, 0.8, 0.1, 1),
            scale.combined,
        ),
    ]
    parts: list[str] = []
    for panel, value in panels:
        parts += panel.axes()
        for method in NAMES:
            parts += _known(panel, [r for r in rows if r.source == method], scale, value, method)
        for each in Winners.of(rows):
            parts += _searched(panel, each, scale, value)
    parts += _legend({winners.by_row for winners in Winners.of(rows)})
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT + 26}" '
        'font-family="sans-serif" font-size="12">'
    )
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>", ""])


def _known(
    panel: Panel,
    rows: Sequence[Reached],
    scale: Scale,
    value: Callable[[Reached], float],
    method: str,
) -> Iterator[str]:
    colour = COLOURS[method]
    seen = [row for row in rows if scale.floor(row) >= LOWEST and value(row) >= panel.low]
    for row in seen:
        at = panel.x(scale.floor(row)), panel.y(value(row))
        yield _mark(method, at, 2.5, f'fill="{colour}" fill-opacity=".3"')
    best, corners = -math.inf, []
    for row in sorted(seen, key=lambda row: (-scale.floor(row), -value(row))):
        if value(row) > best:
            x = panel.x(scale.floor(row))
            if corners:
                corners.append((x, panel.y(best)))
            corners.append((x, panel.y(value(row))))
            best = value(row)
            yield _mark(method, corners[-1], 4, f'fill="{colour}"')
    if corners:
        corners.append((panel.x(LOWEST), panel.y(best)))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}"/>'


def _searched(
    panel: Panel, winners: Winners, scale: Scale, value: Callable[[Reached], float]
) -> Iterator[str]:
    (x, wide), (y, high) = winners.mean(scale.floor), winners.mean(value)
    at = panel.x(x), panel.y(y)
    if math.isfinite(wide):
        yield _line((panel.x(x - wide), at[1]), (panel.x(x + wide), at[1]), "black")
        yield _line((at[0], panel.y(y - high)), (at[0], panel.y(y + high)), "black")
    yield _mark("", at, 4.5, _filled(winners.by_row))


def _filled(by_row: bool) -> str:
    return 'fill="white" stroke="black" stroke-width="1.5"' if by_row else 'fill="black"'


def _legend(searches: set[bool]) -> Iterator[str]:
    entries = [(method, f'fill="{COLOURS[method]}"', name) for method, name in NAMES.items()]
    entries += [("", _filled(kind), SEARCHES[kind]) for kind in sorted(searches)]
    x = float(LEFT)
    for shape, style, name in entries:
        yield _mark(shape, (x, HEIGHT + 10), 4.5, style)
        yield _text(x + 10, HEIGHT + 14, name, "start")
        x += 50 + 6.5 * len(name)  # about what a letter takes


def _mark(shape: str, at: tuple[float, float], radius: float, style: str) -> str:
    outline, (x, y) = SHAPES.get(shape), at
    if outline is None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}/>'
    corners = " ".join(f"{x + dx * radius:.1f},{y + dy * radius:.1f}" for dx, dy in outline)
    return f'<polygon points="{corners}" {style}/>'


def _line(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
