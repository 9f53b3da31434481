"""Every evaluation of a run as a row of plain values, for tables of other tools."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.evolution.history import History, Phase
from evomerge.record.events import EvaluationLine
from evomerge.record.record import Record

OBJECTIVE, ERROR, GENE = "objective.", "error.", "gene."


def score_of(history: History, line: EvaluationLine) -> float | None:
    """The combined score of an evaluation; None where it failed, or base and parents are not known there yet."""
    if line.values is None:
        return None
    batch = history.batches[line.batch]
    if batch.phase == Phase.REFERENCES or not batch.phase.searched:
        score = history.scores(line.batch).get(line.candidate)
        return None if score is None else score.value
    return history.score(line.batch, line.values).value


def row_of(history: History, line: EvaluationLine) -> dict[str, Any]:
    """What is known of an evaluation that ``history`` has folded; genes are left out."""
    batch, candidate = history.batches[line.batch], history.candidates[line.candidate]
    errors = line.errors or {}
    values = line.values or {}
    return {
        "time": line.time,
        "candidate": line.candidate,
        "batch": line.batch,
        "phase": str(batch.phase),
        "origin": candidate.origin,
        "digest": candidate.digest,
        "score": score_of(history, line),
        **{f"{OBJECTIVE}{name}": value for name, value in values.items()},
        **{f"{ERROR}{name}": error for name, error in errors.items()},
        "items": line.items,
        "tokens": line.tokens,
        "seconds": math.fsum(line.seconds.values()),
        "failed": line.error,
    }


def columns(record: Record) -> dict[str, type]:
    """The columns of ``rows``, in order, with what they hold; any may be empty."""
    names = [objective.name for objective in record.objectives]
    return {
        **{
            "time": float,
            "candidate": int,
            "batch": int,
            "phase": str,
            "origin": str,
            "digest": str,
        },
        "score": float,
        **{f"{OBJECTIVE}{name}": float for name in names},
        **{f"{ERROR}{name}": float for name in names},
        **{"items": int, "tokens": int, "seconds": float, "failed": str},
        **{f"{GENE}{name}": float for name in record.head.dims},
    }


def rows(record: Record) -> Iterator[Mapping[str, Any]]:
    """Evaluation by evaluation, in the order that they arrived."""
    genes = [f"{GENE}{name}" for name in record.head.dims]
    for line in record.lines:
        if isinstance(line, EvaluationLine):
            genome = record.history.candidates[line.candidate].genome
            found = {} if genome is None else dict(zip(genes, genome, strict=True))
            yield row_of(record.history, line) | found
