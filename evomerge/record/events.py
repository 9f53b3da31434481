"""The journal's events: how batches, evaluations and the run itself are written and read.

========== ==================================================================================
event      holds
========== ==================================================================================
run        the job: its digest and content, parents by hash, splits, objectives, versions
session    a process began to work on the run
batch      candidates (id, origin, genome, groups) and how many items they are scored on;
           written before the first of them is handed out
evaluation objective values of one candidate with standard errors, or why it failed; where its
           responses lie, and which earlier ones (batch, candidate) were used again
closed     the search phase was ended early (out of hours)
round      a round of the shortlist: who was beaten, by whom, with what evidence; whose scores
           are invalid and why; why there was no race
end        the winner, the table on the report split, and which looks at it came before
========== ==================================================================================
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from evomerge import seeds
from evomerge.errors import InputError
from evomerge.evolution.history import Batch, Candidate, Dropped, Evaluation, History, Verdict
from evomerge.judging.table import Table
from evomerge.recipe import Recipe
from evomerge.record import journal
from evomerge.record.responses import Block
from evomerge.suite.objectives import Objective
from evomerge.suite.scorer import Items

FORMAT = 3
JOURNAL, RESPONSES = "journal.jsonl", "responses.bin"
Event = dict[str, Any]
_LIBRARIES = ("evomerge", "torch", "transformers", "lm_eval", "cma", "optuna", "ray")
_CANDIDATE = ("id", "origin", "genome", "groups")
_OBJECTIVE = tuple(field.name for field in fields(Objective))
_KEYS: Mapping[str, Sequence[str]] = {
    "run": (
        *("digest", "content", "budget", "scoring", "population", "template", "models", "dims"),
        *("objectives", "combine", "splits", "scorers", "versions"),
    ),
    "session": (),
    "batch": ("batch", "phase", "items", "progress", "candidates"),
    "evaluation": (*(field.name for field in fields(Evaluation)), "block", "reused", "seconds"),
    "closed": ("reason",),
    "round": tuple(field.name for field in fields(Verdict)),
    "end": ("winner", "table", "looks"),
}


def read_events(path: Path) -> list[Event]:
    """The events of a run's journal, also while a search writes it.

    Raises:
        InputError: it is absent or of another format, or an event is not what is written.
    """
    events = journal.read(path)
    head = events[0] if events else {"event": "run", "format": FORMAT}
    if (head["event"], head.get("format")) != ("run", FORMAT):
        raise InputError(
            f"{path}:1: not the journal of a run in format {FORMAT} (found {head['event']!r}, format "
            f"{head.get('format')!r}); use the evomerge version that wrote it, or another folder"
        )
    for line, event in enumerate(events, start=1):
        with reading(path, line):
            for found, keys in _mappings(event, head):
                if missing := [key for key in keys if key not in found]:
                    raise ValueError(
                        f"{missing[0]!r} is missing from this {event['event']!r} event"
                    )
            if event is head:
                inventory(event)
            elif event["event"] == "evaluation":
                place_from(event)
    return events


def _mappings(event: Event, head: Event) -> Iterator[tuple[Mapping[str, Any], Sequence[str]]]:
    """The mappings in an event, each with the keys that it must have."""
    kind = event["event"]
    yield event, (*_KEYS.get(kind, ()), "time")
    if kind == "run":
        yield event["splits"], ("digest", "items")
        yield from ((model, ("ref", "sha256")) for model in event["models"].values())
        yield from ((objective, _OBJECTIVE) for objective in event["objectives"])
    elif kind == "batch":
        yield event["items"], ("digest", "counts")
        yield from ((candidate, _CANDIDATE) for candidate in event["candidates"])
    elif kind == "evaluation":
        names = [objective["name"] for objective in head["objectives"]]
        yield from ((event[key], names) for key in ("values", "errors") if event[key] is not None)


@contextmanager
def reading(path: Path, line: int) -> Iterator[None]:
    """Whatever makes no sense in this line of a journal is told with its place.

    Raises:
        InputError: something made no sense.
    """
    try:
        yield
    except (InputError, ValueError) as error:
        raise journal.damaged(path, line, str(error)) from error
    except (AttributeError, LookupError, TypeError) as error:
        raise journal.damaged(path, line, f"{type(error).__name__}: {error}") from error


def fold(history: History, event: Mapping[str, Any], template: Recipe) -> None:
    """Fold what an event tells into ``history``; candidates are rebuilt on the run's ``template``.

    Raises:
        ValueError: it does not follow from what was folded before. What is no event at all raises
            whatever comes of it: see ``reading``.
    """
    if event["event"] == "batch":
        history.open(batch_from(event, template))
    elif event["event"] == "evaluation":
        history.observe(evaluation_from(event))
    elif event["event"] == "round":
        history.judge(round_from(event))
    elif event["event"] == "closed":
        history.close(event["reason"])
    elif event["event"] == "end":
        history.end()
        Table.from_plain(event["table"])


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
        progress=batch.progress,
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
        event["progress"],
    )


def evaluation_event(
    evaluation: Evaluation,
    *,
    place: Block | None,
    reused: Sequence[tuple[int, int]] = (),
    seconds: Mapping[str, float],
) -> Event:
    return stamped(
        "evaluation",
        **asdict(evaluation),
        block=place.plain if place else None,
        reused=[list(at) for at in reused],
        seconds=dict(seconds),
    )


def evaluation_from(event: Mapping[str, Any]) -> Evaluation:
    return Evaluation(**{field.name: event[field.name] for field in fields(Evaluation)})


def place_from(event: Mapping[str, Any], line: int = 0) -> Block | None:
    """Where the responses of an evaluation event lie; ``line`` is its own in the journal."""
    if not event["block"]:
        return None
    offset, size, crc = event["block"]
    return Block(offset, size, crc, line)


def places(events: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The blocks of the response store that a journal's ``events`` name, in order."""
    found = (
        place_from(event, line)
        for line, event in enumerate(events, start=1)
        if event["event"] == "evaluation"
    )
    return [place for place in found if place]


def inventory(head: Mapping[str, Any]) -> dict[str, list[str]]:
    """Scorer -> every item of a run, split by split, from its first event."""
    found: dict[str, list[str]] = {}
    for items in head["splits"]["items"].values():
        for scorer, ids in items.items():
            found.setdefault(scorer, []).extend(ids)
    return found


def round_event(verdict: Verdict) -> Event:
    plain = asdict(verdict)
    # JSON has no numbers as keys
    plain["invalid"] = [[candidate, list(why)] for candidate, why in verdict.invalid.items()]
    return stamped("round", **plain)


def round_from(event: Mapping[str, Any]) -> Verdict:
    return Verdict(
        event["batch"],
        event["last"],
        tuple(Dropped(**dropped) for dropped in event["dropped"]),
        {candidate: why for candidate, why in event["invalid"]},
        event["saved"],
        event["unraced"],
    )


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
