"""Why did the winner win: what it loses without a parent or a part, in words and rows, for text and page."""

from __future__ import annotations

from evomerge.errors import InputError
from evomerge.inference.intervals import Interval
from evomerge.record.ablation import FILE, Ablation, ablation_of
from evomerge.record.record import Record
from evomerge.report.text import markdown_rows, markdown_text, signed_interval

TITLE = "Why did it win"
SUGGESTED = 8  # evaluations

_MEANING = (
    "The winner was scored once more on the select items, and then with one thing left out at a time: a parent, or "
    "what is merged in a part of the model, which is set back to the base there. Above zero the winner is better: "
    "that much is lost without it (paired differences, 95% intervals; of the score to first order)."
)
_CAUTIONS = (
    "Losses need not add up: what one part brings can need another, or can be had from another as well.",
    "The winner was chosen on these items, and its variants were not: losses are likely a little too large. The "
    "report items stayed unseen.",
)


def ablation_for(record: Record) -> tuple[Ablation | None, str]:
    """What was measured of the winner in the table; else None, and why there is nothing, in a sentence."""
    table = record.table
    if table is None or table.winner is None:
        return None, "There is no winner."
    try:
        found = ablation_of(record)
        if found is None:
            return None, "Not measured yet."
        if found.digest != record.history.candidates[table.winner].recipe.digest:
            return None, f"{FILE} is of an earlier winner, #{found.winner}, and left out."
    except InputError as error:
        return None, f"{error}."
    return found, ""


def command(folder: str = "RUN_DIR") -> str:
    """What measures it."""
    return f"evomerge report {folder} --ablate {SUGGESTED}"


def meaning(found: Ablation) -> str:
    """What the losses are, and what they took."""
    return f"{_MEANING} {found.evaluations} evaluations of {found.asked:,} items each."


def notes(found: Ablation) -> list[str]:
    """What has to be said with the losses, a sentence or two a line."""
    failed = [
        f"Without {each.without} there is no score: {each.failed}."
        for each in found.losses
        if each.failed
    ]
    return [*failed, *_CAUTIONS]


def columns(record: Record, found: Ablation) -> list[tuple[str, dict[str, Interval]]]:
    """``score`` and each objective, with what is lost without what: more is worse. What is not known is left out."""
    scores = {each.without: each.score for each in found.losses if each.score is not None}
    columns = [("score", scores)]
    for objective in record.objectives:
        known = {
            each.without: lost if objective.maximize else lost.turned
            for each in found.losses
            if (lost := each.objectives.get(objective.name)) is not None
        }
        if known:
            columns.append((objective.name, known))
    return columns


def rows(record: Record, found: Ablation) -> list[tuple[str, ...]]:
    """The losses as texts, heading first."""
    listed = columns(record, found)
    return [
        ("without", *(name for name, _ in listed)),
        *(
            (each.without, *(_text(column.get(each.without)) for _, column in listed))
            for each in found.losses
            if not each.failed
        ),
    ]


def _text(lost: Interval | None) -> str:
    if lost is None:
        return "unknown"
    # no item tells the two apart: that is no proof that none would
    return f"{lost.value:+.3f} (alike)" if lost.low == lost.high else signed_interval(lost)


def why_markdown(record: Record) -> str:
    """The section of ``report.md``."""
    found, lacking = ablation_for(record)
    lines = ["", f"## {TITLE}", ""]
    if found is None:
        lines.append(f"{markdown_text(lacking)} `{command()}` measures it.")
    else:
        lines += [meaning(found), "", *markdown_rows(rows(record, found)), ""]
        lines += [f"* {markdown_text(note)}" for note in notes(found)]
    return "\n".join(lines) + "\n"
