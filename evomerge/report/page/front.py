"""The confirmed front: who was scored anew and is dominated by nobody, beside the parents."""

from __future__ import annotations

from evomerge.judging.table import Row
from evomerge.report.page import chart
from evomerge.report.page.material import Material
from evomerge.report.page.parts import (
    Block,
    Cell,
    Figure,
    Grid,
    Notes,
    Section,
    bounds,
    number,
    short,
)
from evomerge.report.page.parts import Row as Cells
from evomerge.report.text import interval_text, volume_lines
from evomerge.suite.objectives import Objective, counting, weightless


def front(material: Material) -> Section | None:
    """The section; None where no front was asked for, or it is not confirmed yet."""
    table = material.table
    if table is None or not material.head.content["fitness"].get("front"):
        return None
    members = [row for row in table.rows if row.front is not None]
    lead = (
        "Members were scored anew on select items that no search has seen, and kept where it is more likely than "
        "not that nobody of the shortlist, base and parents dominates them. Values here are on the report's items."
    )
    if not members:
        note = "No member was confirmed: each is more likely than not dominated by another."
        return Section("front", "The front", lead, [Notes([note])])
    objectives = counting(weightless(material.record.objectives, material.history.idle))
    rows = [row for row in table.rows if row.score]
    columns = ("model", *(o.name for o in objectives), "score", "on the front")
    cells: list[Cells] = [
        [
            Cell(row.label, strong=row.front is not None),
            *(Cell.parted(interval_text(row.objectives[o.name])) for o in objectives),
            Cell.parted(interval_text(row.score) if row.score else ""),
            f"{row.front:.0%}" if row.front is not None else "",
        ]
        for row in rows
    ]
    grid = Grid.of(
        "The front beside base, parents and known recipes (95% intervals)", columns, cells
    )
    blocks: list[Block] = [grid]
    if len(objectives) > 1:
        blocks.insert(0, _figure(rows, _widest(objectives, members)))
    blocks.append(Notes([line[0].upper() + line[1:] for line in volume_lines(table)]))
    return Section("front", "The front", lead, blocks)


def _widest(objectives: list[Objective], members: list[Row]) -> list[Objective]:
    """The two objectives in which members differ most, in their order."""

    def spread(objective: Objective) -> float:
        values = [row.objectives[objective.name].value for row in members]
        return max(values) - min(values)

    chosen = sorted(objectives, key=spread, reverse=True)[:2]
    return [each for each in objectives if each in chosen]


def _figure(rows: list[Row], pair: list[Objective]) -> Figure:
    marks = []
    for row in rows:
        one, two = (row.objectives[o.name] for o in pair)
        kind = "confirmed member" if row.front is not None else "base, parent or known recipe"
        across, up = bounds(one), bounds(two)
        marks.append(
            {
                "x": one.value,
                "y": two.value,
                "x1": across["low"],
                "x2": across["high"],
                "y1": up["low"],
                "y2": up["high"],
                "kind": kind,
                "name": f"#{row.candidate}" if row.front is not None else short(row.label, 30),
                "says": f"{row.label}: {pair[0].name} {interval_text(one)}, {pair[1].name} {interval_text(two)}",
            }
        )
    kinds = ["confirmed member", "base, parent or known recipe"]
    apart = chart.apart("kind", kinds)
    fill = {"color": apart["color"]}
    titles = [f"{o.name}{'' if o.maximize else ' (less is better)'}" for o in pair]
    x = {
        "field": "x",
        "type": "quantitative",
        "title": titles[0],
        "scale": {"zero": False},
    }
    y = {
        "field": "y",
        "type": "quantitative",
        "title": titles[1],
        "scale": {"zero": False},
    }
    spec: chart.Spec = {
        "data": chart.rows(marks),
        "width": chart.WIDTH - 70,
        "height": 360,
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.3},
                "encoding": {"x": {**x, "field": "x1"}, "x2": {"field": "x2"}, "y": y, **fill},
            },
            {
                "mark": {"type": "rule", "opacity": 0.3},
                "encoding": {"y": {**y, "field": "y1"}, "y2": {"field": "y2"}, "x": x, **fill},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80},
                "encoding": {
                    "x": x,
                    "y": y,
                    **apart,
                    "description": {"field": "says"},
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 7, "dy": -7, "fontSize": 11},
                "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            },
        ],
    }  # fmt: skip
    words = f"{sum(row.front is not None for row in rows)} confirmed members, by {pair[0].name} and {pair[1].name}."
    columns = ("model", *titles, "kind")
    cells = [
        (
            row.label,
            *(number(row.objectives[o.name].value) for o in pair),
            kinds[row.front is None],
        )
        for row in rows
    ]
    return Figure(
        "The two objectives in which the members differ most",
        words,
        chart.draw(spec),
        Grid.of("Values of the picture", columns, cells, texts=(3,), folded=True),
    )
