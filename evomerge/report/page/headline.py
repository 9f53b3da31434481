"""The top of the page: who won, by how much, and what to do with it."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

from evomerge.inference.intervals import Interval
from evomerge.judging.table import Row
from evomerge.report.page.material import Material
from evomerge.report.page.parts import (
    Block,
    Listing,
    Notes,
    Section,
    Tile,
    Tiles,
    number,
)
from evomerge.report.page.scores import scores
from evomerge.report.terminal import PHASES, budget_text
from evomerge.report.text import interval_text, signed_interval, table_notes
from evomerge.suite.objectives import BASE

_NAMED = 4  # sources that have a place in the title


def headline(material: Material) -> Section:
    """The section; also of a search that has found nothing yet."""
    blocks: list[Block] = [Tiles(_tiles(material))]
    if (found := scores(material)) is not None:
        blocks.append(found)
    if alarms := _alarms(material):
        blocks.append(Notes(alarms, alarming=True))
    if material.chosen is not None:
        blocks.append(Listing("To merge it", _commands(material), folded=False))
    return Section("top", _title(material), _lead(material), blocks)


def when(time: float) -> str:
    """A moment, in UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _title(material: Material) -> str:
    if material.chosen is None:
        return "No merge was scored yet" if material.table is None else "No merge is left"
    candidate = material.history.candidates[material.chosen]
    used = dict.fromkeys(name for group in candidate.recipe.groups for name in group.models)
    sources = [name for name in used if name != BASE]
    what = f"{'Best so far' if material.table is None else 'Winner'}: #{candidate.id}"
    if len(sources) < 2:
        return f"{what} {candidate.origin}"
    listed = f"{', '.join(sources[:-1])} and {sources[-1]}"
    return f"{what}, a merge of {listed if len(sources) <= _NAMED else f'{len(sources)} models'}"


def _lead(material: Material) -> str:
    history, parents = material.history, ", ".join(material.parents.values())
    merged = f"A search for the best merge of {parents}. " if parents else ""
    if material.done and material.table is not None and material.table.winner is None:
        return f"{merged}It is done, and every merge of its shortlist failed."
    if material.done:
        found = ""
        if material.chosen is not None:
            found = f"Found by {material.history.candidates[material.chosen].origin}. "
        sure = "Scores below are on report items that no choice of this search had seen, with 95% intervals."
        return f"{merged}{found}{sure}"
    if material.table is not None:
        best = history.best
        newer = (
            f" Its best by search score, likely too good, is {material.name(best.candidate)}."
            if best
            else ""
        )
        return (
            f"{merged}The winner and the scores below are those of its last table. The search went on after that, with more "
            f"budget, and is not finished.{newer}"
        )
    phase = PHASES.get(history.phase or "", "starting")
    last = f"as of {when(material.record.newest)}"
    return (
        f"{merged}It is not finished ({phase}, {history.arrived} evaluations, {last}). Scores are estimates on "
        "search items, and the best of many is likely too good."
    )


def _tiles(material: Material) -> list[Tile]:
    record, history = material.record, material.history
    tiles = []
    if material.table is not None and (own := material.table.winner_row) and own.score:
        tiles.append(Tile(f"score ({material.table.combine})", *_value(own.score)))
        known = {id: material.name(id) for id in history.baselines}
        for what, rows in (("the best parent", material.parents), ("known recipes", known)):
            row = material.best_of(rows)
            if row is not None and row.gain:
                tiles.append(_gain_tile(what, row, material.name(row.candidate)))
    elif history.best is not None and (interval := record.best_interval) is not None:
        value, rest = _value(interval)
        tiles.append(Tile("search score", value, (*rest, "likely too good")))
        scores = {id: history.scores(0).get(id) for id in material.parents}
        values = {id: score.value for id, score in scores.items() if score}
        if values:
            best = max(values, key=lambda id: values[id])
            tiles.append(Tile("best parent's", number(values[best]), (material.name(best),)))
    minutes = record.seconds / 60
    spent = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    text = (f"{history.spent.items:,} item-forwards", spent)
    return [*tiles, Tile("merges tried", f"{history.tried:,}", text)]


def _value(interval: Interval) -> tuple[str, tuple[str, ...]]:
    """The number, and its interval."""
    text = interval_text(interval)
    value, _, rest = text.partition(" ")
    return value, (rest,) if rest else ()


def _gain_tile(what: str, row: Row, name: str) -> Tile:
    assert row.gain is not None
    value, _, rest = signed_interval(row.gain.difference).partition(" ")
    p = row.gain.p
    sure = [] if p is None else [f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"]
    return Tile(f"over {what}", value, (rest, name, *sure))


def _alarms(material: Material) -> list[str]:
    """What must be read before any number is believed."""
    found = []
    if material.table is not None:
        notes = table_notes(material.table)
        loud = ("INVALID", "FLOOR MISSED", "NOT CONFIRMED", "scores higher than the winner")
        found += [note for note in notes if any(word in note for word in loud)]
        found += [note for note in notes if note.startswith("rounding to")]
    found += [f"{text}." for text in material.record.remarks if "cannot rank" in text]
    return found


def _commands(material: Material) -> str:
    folder = shlex.quote(str(material.record.folder))
    if material.done:
        return f"evomerge merge {folder} -o merged-model"
    budget = budget_text(material.record.budget, material.record.spent)
    return (
        f"evomerge export {folder} -o best.yaml && evomerge merge best.yaml -o merged-model\n"
        f"evomerge resume {folder}   # {budget}"
    )
