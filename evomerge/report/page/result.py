"""The final table, and the winner's lead over each other model: a forest of paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.judging.table import Row, Table
from evomerge.report.page.forest import Facet, forest
from evomerge.report.page.material import Material
from evomerge.report.page.parts import (
    CLEAR,
    Block,
    Cell,
    Figure,
    Grid,
    Notes,
    Section,
    clear,
)
from evomerge.report.text import (
    beside_rows,
    beside_title,
    signed_interval,
    table_notes,
    table_rows,
    table_title,
)
from evomerge.suite.objectives import Objective

_WHAT = "winner less"


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
    if table.beside:
        blocks.append(_beside(table))
    if compared := _compared(table):
        blocks.append(_forest(table, compared, material.record.objectives))
    blocks.append(
        Notes([*table_notes(table), *(f"{remark}." for remark in material.record.remarks)])
    )
    lead = (
        "Differences are paired, item by item, and can be clear where the models' own intervals overlap. Right of "
        "zero the winner is better."
    )
    return Section("result", "The result", lead, blocks)


def _beside(table: Table) -> Grid:
    """What the sources do together without being merged, apart from the models."""
    heading, *rows = beside_rows(table)
    title = beside_title(table)
    cells = [[Cell(texts[0]), *map(Cell.parted, texts[1:])] for texts in rows]
    return Grid.of(title[0].upper() + title[1:], heading, cells)


def forest_picture(material: Material) -> str | None:
    """The differences of scores alone; None where there is nothing to compare."""
    table = material.table
    if table is None or not (compared := _compared(table)):
        return None
    return forest(_facets(table, compared, {})[:1], _WHAT)


def _compared(table: Table) -> list[Row]:
    """The models that the winner is compared with."""
    return [row for row in table.rows if row.gain is not None]


def _facets(table: Table, compared: list[Row], objectives: Mapping[str, Objective]) -> list[Facet]:
    """The winner's leads, panel by panel, in score and in those objectives; more is better."""
    scores = [(row.label, row.gain.difference) for row in compared if row.gain]
    found: list[Facet] = [(f"score ({table.combine})", scores)]
    for name, objective in objectives.items():
        leads = [(row.label, row.leads[name]) for row in compared]
        if not objective.maximize:
            leads = [(label, lead.turned) for label, lead in leads]
        found.append((name, leads))
    return found


def _forest(table: Table, compared: list[Row], objectives: Sequence[Objective]) -> Figure:
    measured = {o.name: o for o in objectives if all(o.name in row.leads for row in compared)}
    facets = _facets(table, compared, measured)
    columns = [[signed_interval(lead) for _, lead in leads] for _, leads in facets]
    rows = list(zip((row.label for row in compared), *columns, strict=True))
    ahead = [
        row.label
        for row in compared
        if row.gain and row.gain.difference.value > 0 and clear(row.gain.difference) == CLEAR[0]
    ]
    words = (
        f"The winner's lead in score over {len(compared)} models, with 95% intervals; clear of zero over "
        f"{', '.join(ahead) if ahead else 'none of them'}."
    )
    grid = Grid.of(
        "Paired differences, winner less model, more is better",
        ("model", "score", *measured),
        rows,
        folded=True,
    )
    title = "The winner's lead, in score and in each objective"
    return Figure(title, words, forest(facets, _WHAT), grid)
