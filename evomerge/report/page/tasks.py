"""Models by objectives: who is good at what, as a heat map, its columns by language or by what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.evolution.history import Phase
from evomerge.report.page.material import Material
from evomerge.report.page.parts import Cell, Grid, Row, Section, number, shade, short
from evomerge.suite.objectives import BASE, Objective, Values


@dataclass(frozen=True)
class Group:
    """Objectives that stand side by side, and under what; no title where nothing joins them."""

    title: str
    objectives: Sequence[Objective]


def tasks(material: Material) -> Section | None:
    """The section; None before base and parents are scored."""
    rows, where = _values(material)
    if len(rows) < 2:
        return None
    found = groups(material.record.objectives, languages(material.head.content))
    objectives = [objective for group in found for objective in group.objectives]
    signs = {o.name: o.sign for o in objectives}
    ends: dict[str, tuple[float, float]] = {}
    reference = rows.get(BASE, next(iter(rows.values())))
    for name, sign in signs.items():
        middle = sign * reference[name]
        ends[name] = middle, max(abs(sign * each[name] - middle) for each in rows.values())
    cells: list[Row] = []
    for label, values in rows.items():
        shades = (shade(signs[name] * values[name], *ends[name]) for name in signs)
        cells.append(
            [label, *(Cell(number(values[n]), s) for n, s in zip(signs, shades, strict=True))]
        )
    spans: list[tuple[str, int]] = []
    if any(group.title for group in found):
        spans = [("", 1), *((short(group.title, 60), len(group.objectives)) for group in found)]
    columns = ("model", *(_title(o, len(spans) > 0) for o in objectives))
    lead = (
        "Shades are relative to the base, column by column: the bluer the better, the more orange the worse. What is "
        "made of other objectives says of which."
    )
    grid = Grid.of(f"Values of each objective, {where}", columns, cells, spans=spans)
    return Section("tasks", "Objectives, model by model", lead, [grid])


def languages(content: Mapping[str, Any]) -> dict[str, str]:
    """Objective -> its language, where the fitness names one."""
    fitness = content.get("fitness")
    entries = fitness.get("objectives") if isinstance(fitness, Mapping) else None
    return {
        name: entry["language"]
        for name, entry in (entries.items() if isinstance(entries, Mapping) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("language"), str)
    }


def groups(objectives: Sequence[Objective], spoken: Mapping[str, str]) -> list[Group]:
    """All ``objectives``, each once, side by side with those that belong to it.

    Where several languages are named, those of a language; what is made of several stands first. Else what is made
    of others, with these; the rest stands last.
    """
    titles: dict[str, str] = {}
    if len({spoken[o.name] for o in objectives if o.name in spoken}) > 1:
        titles = {o.name: spoken.get(o.name, "over several" if o.of else "") for o in objectives}
    else:
        made: dict[tuple[str, ...], list[str]] = {}
        for objective in objectives:
            if objective.of:
                made.setdefault(objective.of, []).append(objective.name)
        for parts, names in made.items():
            for name in (*names, *parts):
                titles.setdefault(name, ", ".join(names))
    made_first = sorted(objectives, key=lambda o: not o.of)
    title_of = {o.name: titles.get(o.name, "") for o in made_first}
    order = [*(title for title in dict.fromkeys(title_of.values()) if title), ""]
    found = [Group(title, [o for o in made_first if title_of[o.name] == title]) for title in order]
    return [group for group in found if group.objectives]


def _title(objective: Objective, grouped: bool) -> str:
    extra = []
    if objective.of:
        named = ", ".join(objective.of)
        short_of = f"{len(objective.of)} objectives" if grouped and len(named) > 30 else named
        extra.append(f"{objective.how} of {short_of}")
    extra += [] if objective.maximize else ["less is better"]
    return f"{objective.name} ({'; '.join(extra)})" if extra else objective.name


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
