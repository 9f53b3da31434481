"""Every model of the final table by its score, with its interval: the picture at the top of the page."""

from __future__ import annotations

from evomerge.inference.intervals import Interval
from evomerge.judging.table import Row, Table
from evomerge.report.page import chart
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Figure, bounds, number, short
from evomerge.report.text import interval_text

_MOST = 24  # models in the picture; the table has all
_KINDS = ("winner", "base and parents", "other merges", "no merge")
_COLOURS = ("one", "two", "three", "soft")


def scores(material: Material) -> Figure | None:
    """The picture; None before there is a table with a winner."""
    table = material.table
    if table is None or table.winner is None:
        return None
    models = [
        (row.label, row.score, _kind(material, table, row)) for row in table.rows if row.score
    ]
    models += [(f"{each.label} (no merge)", each.score, "no merge") for each in table.beside]
    models.sort(key=lambda model: -model[1].value)
    words = f"Scores ({table.combine}) on the report's items, with 95% intervals, from best to least: " + "; ".join(
        f"{label} {number(score.value)}" for label, score, _ in models[:_MOST]
    )  # fmt: skip
    return Figure(f"Score ({table.combine}) on the report's items", words, _draw(models[:_MOST]))


def _kind(material: Material, table: Table, row: Row) -> str:
    if row.candidate == table.winner:
        return "winner"
    return "base and parents" if row.candidate in material.references else "other merges"


def _draw(models: list[tuple[str, Interval, str]]) -> str:
    marks = [
        {
            "row": f"{at}",
            "name": short(label, 36),
            "x": score.value,
            **bounds(score),
            "end": score.value if score.why else score.high,
            "text": number(score.value),
            "kind": kind,
            "says": f"{label}: {interval_text(score)}",
        }
        for at, (label, score, kind) in enumerate(models)
    ]
    kinds = [kind for kind in _KINDS if any(kind == each for _, _, each in models)]
    colours = [colour for kind, colour in zip(_KINDS, _COLOURS, strict=True) if kind in kinds]
    x = {
        "field": "x",
        "type": "quantitative",
        "title": None,
        "axis": {"tickCount": 6},
        "scale": {"zero": False},
    }
    y = chart.places("row", len(models))
    spec: chart.Spec = {
        "data": chart.rows(marks),
        "width": chart.WIDTH - 250,
        "height": {"step": 24},
        "layer": [
            chart.labels(y),
            *chart.intervals(x, y, chart.apart("kind", kinds, colours), 64),
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "color": chart.colour("ink")},
                "encoding": {"x": {**x, "field": "end"}, "y": y, "text": {"field": "text"}},
            },
        ],
    }
    return chart.draw(spec)
