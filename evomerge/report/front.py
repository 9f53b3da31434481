"""The front of a run: its members as confirmed on select, or as search estimates say they are."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.errors import InputError
from evomerge.evolution.archive import Elite
from evomerge.evolution.archive.front import front
from evomerge.evolution.history import Phase
from evomerge.record.record import Record
from evomerge.report.text import markdown_text, volume_lines
from evomerge.suite.objectives import Objective, counting, weightless


def confirmed(record: Record) -> list[int]:
    """The candidates that were scored again on select and that nobody of the shortlist dominates there.

    Raises:
        InputError: the run looked for none, is not that far, or confirmed none.
    """
    advice = "--unconfirmed DIR writes what search estimates say"
    verdicts = record.history.verdicts
    if not record.head.content["fitness"].get("front"):
        raise InputError(
            f"{record.folder}: this run confirmed no front: its fitness has no `front: N` (how many members "
            f"may be on it); {advice}"
        )
    if not verdicts or not verdicts[-1].last:
        raise InputError(f"{record.folder}: the front is not confirmed yet; {advice}")
    members = [member.candidate for member in verdicts[-1].front]
    if not members:
        raise InputError(
            f"{record.folder}: no member of the front was confirmed: each is more likely than not dominated "
            f"by another; {advice}"
        )
    return members


def unconfirmed(record: Record) -> list[int]:
    """The front over search scores: estimates on samples that differ between generations.

    Raises:
        InputError: nothing was scored yet.
    """
    members = front(record.history.merges(), _ranking(record))
    if not members:
        raise InputError(f"{record.folder}: no merge was scored yet")
    return sorted({elite.candidate for elite in members})


def _ranking(record: Record) -> list[Objective]:
    """The objectives that a front is over."""
    return counting(weightless(record.objectives, record.history.idle))


def front_markdown(record: Record, members: Sequence[int]) -> str:
    """A table of ``members``: what they were scored, and where."""
    history, objectives = record.history, _ranking(record)
    verdict = history.verdicts[-1] if history.verdicts else None
    probability = {m.candidate: m.probability for m in verdict.front} if verdict else {}
    sure = set(members) <= probability.keys()
    elites: dict[int, Elite] = {}
    for elite in history.elites(Phase.SELECT) if sure else history.merges():
        elites[elite.candidate] = elite  # the newest counts
    head = ["candidate", "origin", "score", *(o.name for o in objectives), "on the front"]
    lines = [f"| {' | '.join(map(markdown_text, head))} |", f"|{' --- |' * len(head)}"]
    for member in members:
        elite, origin = elites[member], history.candidates[member].origin
        values = [f"{elite.values[o.name]:.3f}" for o in objectives]
        chance = f"{probability[member]:.0%}" if member in probability else "not confirmed"
        cells = [f"#{member}", markdown_text(origin), f"{elite.score.value:.3f}", *values, chance]
        lines.append(f"| {' | '.join(cells)} |")
    if sure:
        note = (
            "Scored on the select items, which no search has seen; the last column says how likely nobody of "
            "the shortlist, base and parents included, dominates it (paired resamples)."
        )
    else:
        note = (
            "UNCONFIRMED: estimates on search samples, of which the luckiest are on the front; few of these "
            "would be found there again."
        )
    covered = volume_lines(record.table) if sure and record.table else []
    covered = [markdown_text(line[0].upper() + line[1:]) for line in covered]
    return "\n".join([*lines, "", note, *covered, ""])
