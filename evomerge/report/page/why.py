"""Why did the winner win: what it loses without each parent, and without parts of what it merges."""

from __future__ import annotations

import shlex

from evomerge.report import why as told
from evomerge.report.page.forest import ROWS, forest
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Block, Figure, Grid, Listing, Notes, Section


def why(material: Material) -> Section | None:
    """The section; None before there is a winner in a table."""
    record, table = material.record, material.table
    if table is None or table.winner is None:
        return None
    found, lacking = told.ablation_for(record)
    if found is None:
        folder = shlex.quote(str(record.folder))
        lead = (
            f"{lacking} The winner can be scored once more without each parent, and with parts of it set back to the "
            f"base: {told.SUGGESTED} evaluations on the select items do. This executes what the search did."
        )
        listing = Listing("To measure it", told.command(folder), folded=False)
        return Section("why", told.TITLE, lead, [listing])
    blocks: list[Block] = []
    columns = told.columns(record, found)
    if any(column for _, column in columns):
        heading, *rows = told.rows(record, found)
        grid = Grid.of("What the winner loses, more is worse", heading, rows, folded=True)
        words = f"Losses of the winner in {', '.join(name for name, _ in columns)}, for each thing left out; the table has the numbers."
        if len(rows) > ROWS:
            words += f" The first {ROWS} are drawn."
        facets = [(name, [*column.items()]) for name, column in columns if column]
        svg = forest(facets, "what is lost without")
        blocks.append(Figure("What the winner loses without", words, svg, grid))
    blocks.append(Notes(told.notes(found)))
    return Section("why", told.TITLE, told.meaning(found), blocks)
