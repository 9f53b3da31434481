"""The journal's events: how batches, evaluations and the run itself are written and read.

========== ==================================================================================
event      holds
========== ==================================================================================
run        the job: its digest and content, parents by hash, splits, objectives, versions
session    a process began to work on the run
batch      candidates (id, origin, genome, groups) and the items they are scored on; written
           before the first of them is handed out
evaluation objective values and every per-item response of one candidate, or why it failed
closed     the search phase was ended early (out of hours)
end        the winner and the table on the report split
========== ==================================================================================
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge import seeds
from evomerge.fitness.suite import Items, Results
from evomerge.history import Batch, Candidate, Evaluation, History
from evomerge.recipe import Recipe

FORMAT = 1
JOURNAL = "journal.jsonl"
Event = dict[str, Any]
_LIBRARIES = ("evomerge", "torch", "transformers", "lm_eval", "cma", "optuna", "ray")


def versions() -> dict[str, str]:
    """Installed versions of the libraries a result may depend on."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stamped(event: str, **content: Any) -> Event:
    """An event with the time; time never enters a decision, only displays and the hours budget."""
    return {"event": event, **content, "time": time.time()}


def batch_event(batch: Batch, items: Items) -> Event:
    return stamped(
        "batch",
        batch=batch.number,
        phase=batch.phase,
        items={
            "digest": items_digest(items),
            "counts": {name: len(ids) for name, ids in items.items()},
        },
        references=batch.references,
        candidates=[
            {
                "id": c.id,
                "origin": c.origin,
                "genome": None if c.genome is None else list(c.genome),
                "groups": c.recipe.plain["groups"],
            }
            for c in batch.candidates
        ],
    )


def batch_from(event: Mapping[str, Any], template: Recipe) -> Batch:
    """The batch that ``batch_event`` wrote; candidates are rebuilt on the run's ``template``."""
    plain = template.plain
    origin = template.base.origin if template.base else "."
    return Batch(
        event["batch"],
        event["phase"],
        tuple(
            Candidate(
                c["id"],
                c["origin"],
                Recipe.from_plain({**plain, "groups": c["groups"]}, origin),
                None if c["genome"] is None else tuple(c["genome"]),
            )
            for c in event["candidates"]
        ),
        event["references"],
    )


def evaluation_event(
    evaluation: Evaluation,
    *,
    results: Results | None,
    probe: Results | None = None,
    seconds: Mapping[str, float],
    same_as: Sequence[int] | None = None,
) -> Event:
    """``same_as``: (batch, candidate) whose equal recipe on equal items was scored instead."""
    return stamped(
        "evaluation",
        batch=evaluation.batch,
        candidate=evaluation.candidate,
        values=evaluation.values,
        error=evaluation.error,
        results=results,
        probe=probe,
        same_as=None if same_as is None else list(same_as),
        seconds=dict(seconds),
    )


def evaluation_from(event: Mapping[str, Any]) -> Evaluation:
    return Evaluation(event["batch"], event["candidate"], event["values"], event["error"])


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
        "candidates_tried": len(history.candidates),
        "parents": {name: model["sha256"] for name, model in head["models"].items()},
    }
    for phase in ("search", "select"):
        phases = ("start", "search") if phase == "search" else ("select",)
        scores = [e.score.value for e in history.elites(*phases) if e.candidate == candidate]
        if scores:
            provenance[f"{phase}_score"] = round(scores[-1], 6)
    for row in (table or {}).get("rows", []):
        if row["candidate"] == candidate:
            provenance["report"] = {key: row[key] for key in ("score", "objectives")}
    return replace(found.recipe.portable(), provenance=provenance)


def items_digest(items: Items) -> str:
    """16 hex digits that name a set of items."""
    flat = [text for name in sorted(items) for text in (name, *items[name], "")]
    return f"{seeds.key('items', *flat):032x}"[:16]


def seconds_worked(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds over all sessions: from each start to the last event before the next."""
    total, start, last = 0.0, None, 0.0
    for event in events:
        if event["event"] == "session":
            total += 0.0 if start is None else last - start
            start = event["time"]
        last = event["time"]
    return total if start is None else total + last - start
