"""Provenance: where a recipe comes from and what it scored, in the recipe's own trailing block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge.fitness.intervals import Interval
from evomerge.fitness.objectives import Objective
from evomerge.history import History
from evomerge.recipe import Recipe
from evomerge.run import finish
from evomerge.run.evidence import search_interval


def with_provenance(
    history: History,
    objectives: Sequence[Objective],
    candidate: int,
    head: Mapping[str, Any],
    table: Mapping[str, Any] | None,
) -> Recipe:
    """The portable recipe of ``candidate``, with where it comes from and what it scored.

    Args:
        history: holds the candidate.
        objectives: what the run optimizes.
        candidate: its id.
        head: the run event.
        table: of the report split, once there is one.
    """
    found = history.candidates[candidate]
    provenance: dict[str, Any] = {
        "evomerge": head["versions"].get("evomerge", "unknown"),
        "run": head["digest"],
        "candidate": candidate,
        "origin": found.origin,
        "candidates_tried": len(history.candidates) - len(history.batches[0].candidates),
        "parents": {name: model["sha256"] for name, model in head["models"].items()},
        "splits": head["splits"]["digest"],
    }
    searched, selected = (
        [e for e in history.elites(*phases) if e.candidate == candidate]
        for phases in (("start", "search"), ("select",))
    )
    if searched:
        interval = search_interval(history, objectives, searched[-1].batch, candidate)
        provenance["search_score"] = interval.plain
    if selected:
        unknown = Interval.unknown(selected[-1].score.value, "resampled for the winner only")
        provenance["select_score"] = unknown.plain
    if table and candidate == table["winner"]:
        provenance |= finish.provenance(table)
    for row in (table or {}).get("rows", []):
        if row["candidate"] == candidate:
            provenance["report"] = {key: row[key] for key in ("score", "objectives")}
    return replace(found.recipe.portable(), provenance=_rounded(provenance))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 6) if isinstance(value, float) else value
