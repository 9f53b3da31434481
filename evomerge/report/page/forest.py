"""Forests: intervals of differences, row by row, one panel a quantity; what is clear of zero stands out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.inference.intervals import Interval
from evomerge.report.page import chart
from evomerge.report.page.parts import CLEAR, bounds, clear, short
from evomerge.report.text import signed_interval

FACETS = 13  # panels: the score and twelve objectives; the table has all
ROWS = 60  # rows of each


Facet = tuple[str, Sequence[tuple[str, Interval]]]
"""A panel: its title, and names of rows with their differences."""


def forest(facets: Sequence[Facet], what: str) -> str:
    """The picture.

    Args:
        facets: panels, whose rows are put in one order. The first ``FACETS`` are drawn.
        what: a row's difference is, before the row's name: ``winner less``.
    """
    facets = facets[:FACETS]
    drawn = set(list(dict.fromkeys(row for _, column in facets for row, _ in column))[:ROWS])
    marks: list[dict[str, Any]] = [
        {
            "facet": title,
            "row": short(row),
            "x": value.value,
            **bounds(value),
            "sure": clear(value),
            "says": f"{title}, {what} {row}: {signed_interval(value)}",
        }
        for title, column in facets
        for row, value in column
        if row in drawn
    ]
    width = chart.WIDTH - 190 if len(facets) == 1 else (chart.WIDTH - 200) // 2
    x = {
        "field": "x",
        "type": "quantitative",
        "title": None,
        "axis": {"tickCount": 5, "format": "+.2~f"},
    }
    y = {
        "field": "row",
        "type": "nominal",
        "title": None,
        "sort": None,
        "axis": {"labelLimit": 170},
    }
    panels = [title for title, _ in facets]
    apart = chart.apart("sure", CLEAR, ("one", "soft"))
    spec: chart.Spec = {
        "data": chart.rows(marks),
        "facet": {"field": "facet", "type": "nominal", "sort": panels, "title": None},
        "columns": 1 if len(facets) == 1 else 2,
        "spacing": {"row": 22, "column": 28},
        "resolve": {"scale": {"x": "independent"}},
        "spec": {
            "width": width,
            "height": {"step": 24},
            "layer": [chart.zero(), *chart.intervals(x, y, apart, 64)],
        },
    }
    return chart.draw(spec)
