"""Provenance: where a recipe comes from and what it scored, in the recipe's own trailing block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge.evolution.history import MERGED, History, Phase
from evomerge.inference.intervals import Interval
from evomerge.judging.evidence import search_interval
from evomerge.judging.table import Table
from evomerge.recipe import Recipe
from evomerge.record.events import Head
from evomerge.suite.objectives import Objective


def with_provenance(
    history: History,
    objectives: Sequence[Objective],
    candidate: int,
    head: Head,
    table: Table | None,
) -> Recipe:
    """The portable recipe of ``candidate``, with where it comes from and what it scored.

    Args:
        history: holds the candidate.
        objectives: what the run optimizes.
        candidate: its id.
        head: of the journal.
        table: of the report split, once there is one.
    """
    found = history.candidates[candidate]
    provenance: dict[str, Any] = {
        "evomerge": head.versions.get("evomerge", "unknown"),
        "run": head.digest,
        "candidate": candidate,
        "origin": found.origin,
        "candidates_tried": history.tried,
        "parents": {name: model.sha256 for name, model in head.models.items()},
        "splits": head.splits.digest,
    }
    if commits := {model.ref: model.pinned for model in head.models.values() if model.pinned}:
        provenance["commits"] = commits
    searched, selected = (
        history.scored(candidate, *phases) for phases in (MERGED, (Phase.SELECT,))
    )
    if searched:
        interval = search_interval(history, objectives, searched[-1].batch, candidate)
        provenance["search_score"] = interval.plain
    if selected:
        unknown = Interval.unknown(selected[-1].score.value, "resampled for the winner only")
        provenance["select_score"] = unknown.plain
    if table:
        if candidate == table.winner:
            provenance |= of_winner(table)
        for row in table.rows:
            if row.candidate == candidate:
                provenance["report"] = {key: row.plain[key] for key in ("score", "objectives")}
                provenance["measured"] = measured(objectives, table)
    recipe = found.recipe.portable()
    provenance["digest"] = recipe.digest  # also of the recipes that it names
    return replace(recipe, provenance=_rounded(provenance))


def measured(objectives: Sequence[Objective], table: Table) -> dict[str, dict[str, Any]]:
    """What the numbers of a table are: by objective the task, its metric, the better direction, the items."""
    return {
        objective.name: {
            **(
                {"of": list(objective.of), "how": objective.how}
                if objective.of
                else {"task": objective.scorer, "metric": objective.metric}
            ),
            "better": "higher" if objective.maximize else "lower",
            "items": table.items[objective.name].items,
        }
        for objective in objectives
        if objective.name in table.items
    }


def of_winner(table: Table) -> dict[str, Any]:
    """What the winner's recipe says beside its own scores, from the final table.

    ``beside`` holds its paired differences to base, parents and baselines: value, low, high and p.
    """
    own, plain = table.winner_row, table.trust.plain
    found: dict[str, Any] = {"select_looks": table.effort.select_looks}
    if plain["select"]:
        found["select_score"] = plain["select"]
    if own and own.score:
        found["beside"] = {row.label: row.gain.plain for row in table.rows if row.gain}
        if own.invalid:
            found["invalid"] = list(own.invalid)
        if plain["gap"]:
            found["search_less_report"] = plain["gap"]
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 6) if isinstance(value, float) else value
