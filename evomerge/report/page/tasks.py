"""Models by objectives: who is good at what, as a heat map."""

from __future__ import annotations

from evomerge.evolution.history import Phase
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Cell, Grid, Row, Section, number, shade
from evomerge.suite.objectives import BASE, Values


def tasks(material: Material) -> Section | None:
    """The section; None before base and parents are scored."""
    rows, where = _values(material)
    if len(rows) < 2:
        return None
    objectives = material.record.objectives
    signs = {o.name: o.sign for o in objectives}
    ends: dict[str, tuple[float, float]] = {}
    reference = rows.get(BASE, next(iter(rows.values())))
    for name, sign in signs.items():
        middle = sign * reference[name]
        ends[name] = middle, max(abs(sign * each[name] - middle) for each in rows.values())
    cells: list[Row] = []
    for label, found in rows.items():
        shades = (shade(signs[name] * found[name], *ends[name]) for name in signs)
        cells.append(
            [label, *(Cell(number(found[n]), s) for n, s in zip(signs, shades, strict=True))]
        )
    columns = ("model", *(_title(o.name, o.maximize, o.of, o.how) for o in objectives))
    lead = (
        "Shades are relative to the base, column by column: the bluer the better, the more orange the worse. What is "
        "made of other objectives says of which."
    )
    grid = Grid.of(f"Values of each objective, {where}", columns, cells)
    return Section("tasks", "Objectives, model by model", lead, [grid])


def _title(name: str, maximize: bool, of: tuple[str, ...], how: str) -> str:
    extra = [f"{how} of {', '.join(of)}"] if of else []
    extra += [] if maximize else ["less is better"]
    return f"{name} ({'; '.join(extra)})" if extra else name


def _values(material: Material) -> tuple[dict[str, Values], str]:
    """Label -> values, and on which items."""
    found: dict[str, Values] = {}
    table, history = material.table, material.history
    if table is not None:
        for row in table.rows:
            if row.score:
                found[row.label] = {name: each.value for name, each in row.objectives.items()}
        return found, "on the report's items"
    if not history.batches or not history.complete(1):
        return found, ""
    found.update(history.references(0))
    if history.best is not None:
        found[f"best so far: {material.name(history.best.candidate)}"] = history.best.values
    for elite in history.elites(Phase.START):
        found.setdefault(history.candidates[elite.candidate].origin, elite.values)
    return found, "on search items, estimated for merges"
