"""The final table, and the winner's lead over each other model: a forest of paired differences."""

from __future__ import annotations

from typing import Any

from evomerge.inference.intervals import Interval
from evomerge.judging.table import Row, Table
from evomerge.report.page import chart
from evomerge.report.page.material import Material
from evomerge.report.page.parts import (
    CLEAR,
    Block,
    Cell,
    Figure,
    Grid,
    Notes,
    Section,
    bounds,
    clear,
    short,
    signed_interval,
)
from evomerge.report.text import table_notes, table_rows, table_title

_SCORE = "score"
_FACETS = 12  # objectives in the picture; the table has all


def result(material: Material) -> Section | None:
    """The section; None before there is a table."""
    table = material.table
    if table is None:
        return None
    heading, *rows = table_rows(table)
    bold = [row.candidate == table.winner for row in table.rows]
    cells = [
        [Cell(texts[0], strong=strong), *(Cell.parted(text, strong=strong) for text in texts[1:])]
        for texts, strong in zip(rows, bold, strict=True)
    ]
    words = {n for n, name in enumerate(heading) if name == "health"}
    blocks: list[Block] = [
        Grid.of(f"All models on the {table_title(table)}", heading, cells, texts=sorted(words))
    ]
    if compared := _compared(table):
        directions = {o.name: o.sign for o in material.record.objectives}
        blocks.append(_forest(table, compared, directions))
    blocks.append(
        Notes([*table_notes(table), *(f"{remark}." for remark in material.record.remarks)])
    )
    lead = (
        "Differences are paired, item by item, and can be clear where the models' own intervals overlap. Right of "
        "zero the winner is better."
    )
    return Section("result", "The result", lead, blocks)


def forest_picture(material: Material) -> str | None:
    """The differences of scores alone; None where there is nothing to compare."""
    table = material.table
    if table is None or not (compared := _compared(table)):
        return None
    return _draw([_SCORE], compared, {}, table)


def _compared(table: Table) -> list[Row]:
    """The models that the winner is compared with."""
    return [row for row in table.rows if row.gain is not None]


def _forest(table: Table, compared: list[Row], directions: dict[str, float]) -> Figure:
    objectives = [name for name in table.items if all(name in row.leads for row in compared)]
    columns = ("model", _SCORE, *objectives)
    rows = [
        (
            row.label,
            signed_interval(row.gain.difference) if row.gain else "",
            *(signed_interval(_turned(row.leads[name], directions[name])) for name in objectives),
        )
        for row in compared
    ]
    ahead = [
        row.label
        for row in compared
        if row.gain and row.gain.difference.value > 0 and clear(row.gain.difference) == CLEAR[0]
    ]
    words = (
        f"The winner's lead in score over {len(compared)} models, with 95% intervals; clear of zero over "
        f"{', '.join(ahead) if ahead else 'none of them'}."
    )
    return Figure(
        "The winner's lead, in score and in each objective",
        words,
        _draw([_SCORE, *objectives[:_FACETS]], compared, directions, table),
        Grid.of(
            "Paired differences, winner less model, more is better", columns, rows, folded=True
        ),
    )


def _turned(interval: Interval, sign: float) -> Interval:
    if sign > 0:
        return interval
    if interval.why:
        return Interval.unknown(-interval.value, interval.why)
    return Interval(-interval.value, -interval.high, -interval.low)


def _draw(
    facets: list[str], compared: list[Row], directions: dict[str, float], table: Table
) -> str:
    titles = {name: name for name in facets}
    titles[_SCORE] = f"score ({table.combine})"
    marks: list[dict[str, Any]] = []
    for name in facets:
        for row in compared:
            assert row.gain is not None
            lead = (
                row.gain.difference
                if name == _SCORE
                else _turned(row.leads[name], directions[name])
            )
            marks.append(
                {
                    "facet": titles[name],
                    "model": short(row.label),
                    "x": lead.value,
                    **bounds(lead),
                    "sure": clear(lead),
                    "says": f"{titles[name]}, winner less {row.label}: {signed_interval(lead)}",
                }
            )
    width = chart.WIDTH - 190 if len(facets) == 1 else (chart.WIDTH - 200) // 2
    x = {
        "field": "x",
        "type": "quantitative",
        "title": None,
        "axis": {"tickCount": 5, "format": "+.2~f"},
    }
    y = {
        "field": "model",
        "type": "nominal",
        "title": None,
        "sort": None,
        "axis": {"labelLimit": 170},
    }
    order = chart.named([titles[name] for name in facets])
    apart = chart.apart("sure", CLEAR, ("one", "soft"))
    fill = {"color": apart["color"]}
    spec: chart.Spec = {
        "data": chart.rows(marks),
        "facet": {"field": "facet", "type": "nominal", "sort": order, "title": None},
        "columns": 1 if len(facets) == 1 else 2,
        "spacing": {"row": 22, "column": 28},
        "resolve": {"scale": {"x": "independent"}},
        "spec": {
            "width": width,
            "height": {"step": 24},
            "layer": [
                {
                    "mark": {"type": "rule", "color": chart.colour("line")},
                    "encoding": {"x": {"datum": 0, "type": "quantitative"}},
                },
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, **fill},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 64},
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
    return chart.draw(spec)
