"""Health gates: whose scores cannot be compared, and what answers suffer from."""

from __future__ import annotations

from evomerge.report.page.material import Material
from evomerge.report.page.parts import Block, Cell, Grid, Notes, Section, shade
from evomerge.suite.scorer import Results

_TROUBLES = {
    "truncated": "cut off",
    "repetitive": "empty or looping",
    "unextracted": "no answer found",
    "off_language": "wrong language",
}


def health(material: Material) -> Section | None:
    """The section; None before there is a table."""
    table = material.table
    if table is None:
        return None
    found = [f"{row.label} is INVALID: {reason}." for row in table.rows for reason in row.invalid]
    for candidate, reasons in table.effort.invalid.items():
        found += [
            f"{material.name(candidate)} was invalid on the select split: {why}." for why in reasons
        ]
    noted = [f"{row.label}: {note}." for row in table.rows for note in row.notes]
    blocks: list[Block] = []
    if found:
        blocks.append(Notes(found, alarming=True))
    if noted:
        blocks.append(Notes(noted))
    if not found and not noted:
        blocks.append(
            Notes(
                [
                    "No gate fired: no gain is an artefact of how models were evaluated, as far as they can tell."
                ]
            )
        )
    if grid := _rates(material):
        blocks.append(grid)
    lead = (
        "A parent that is cut off or misread loses points that it is able to get; a merge without that trouble looks "
        "better and need not be. Rates are compared with those of the parent it has to beat."
    )
    return Section("health", "Health gates", lead, blocks)


def _rates(material: Material) -> Grid | None:
    """Models by troubles of tasks, as shares of the report's answers."""
    table, answers = material.table, material.answers
    assert table is not None
    measured = {
        (task, signal)
        for results in answers.values()
        for task, responses in results.items()
        for signal in responses["metrics"]
        if signal in _TROUBLES
    }
    columns = sorted(measured)
    if not columns:
        return None
    rows = []
    for row in table.rows:
        if row.candidate not in answers:
            continue
        rates = [_rate(answers[row.candidate], *column) for column in columns]
        cells = [
            Cell("" if r is None else f"{r:.0%}", None if not r else -shade(r, 0.0, 0.5))
            for r in rates
        ]
        rows.append([Cell(row.label, strong=row.candidate == table.winner), *cells])
    headings = ("model", *(f"{task}: {_TROUBLES[signal]}" for task, signal in columns))
    return Grid.of("Answers with a trouble, on the report's items", headings, rows)


def _rate(results: Results, task: str, signal: str) -> float | None:
    values = results[task]["metrics"].get(signal, []) if task in results else []
    known = [float(value) for value in values if isinstance(value, (int, float))]
    return sum(known) / len(known) if known else None
