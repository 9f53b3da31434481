"""Provenance: where a recipe comes from and what it scored, in the recipe's own trailing block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evomerge.history import History
from evomerge.recipe import Recipe
from evomerge.run import finish


def with_provenance(
    history: History, candidate: int, head: Mapping[str, Any], table: Mapping[str, Any] | None
) -> Recipe:
    """The portable recipe of ``candidate``, with where it comes from and what it scored.

    Args:
        history: holds the candidate.
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
    for name, phases in (("search", ("start", "search")), ("select", ("select",))):
        scores = [e.score.value for e in history.elites(*phases) if e.candidate == candidate]
        if scores:
            provenance[f"{name}_score"] = round(scores[-1], 6)
    if table and candidate == table["winner"]:
        provenance |= finish.provenance(table)
    for row in (table or {}).get("rows", []):
        if row["candidate"] == candidate:
            provenance["report"] = {key: row[key] for key in ("score", "objectives")}
    return replace(found.recipe.portable(), provenance=provenance)
