"""Has a merge collapsed? Judged by a few answers, the probe, before the other items are paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.suite.scorer import Results

FACTOR, SLACK = 1.5, 1.0  # nats a token allowed: the worst reference's times FACTOR, plus SLACK

ProbeLimits = Mapping[
    str, Any
]  # scorer -> {"nats": most nats a token, "worst": ..., "repetitive": ...}


def probe_limits(references: Sequence[Results]) -> ProbeLimits:
    """What a merge may do to a probe that base and parents gave these answers to."""
    limits: dict[str, Any] = {}
    for scorer in references[0]:
        found = [_signals(results[scorer]["metrics"]) for results in references]
        nats = [each["target_nats"] for each in found if each["target_nats"] is not None]
        worst = max(nats) if nats else None
        limits[scorer] = {
            "worst": worst,
            "nats": None if worst is None else FACTOR * worst + SLACK,
            # an answer that a parent gives is no sign of a collapse
            "repetitive": any(each["repetitive"] == 1.0 for each in found),
        }
    return limits


def find_collapse(results: Results, limits: ProbeLimits) -> str | None:
    """Why the model that gave these answers need not be asked more; None if it may go on."""
    for scorer, responses in results.items():
        limit, found = limits[scorer], _signals(responses["metrics"])
        nats = found["target_nats"]
        if nats is not None and limit["nats"] is not None and nats > limit["nats"]:
            return (
                f"collapsed on the probe: {scorer} {nats:.2f} nats a token, the worst of base and "
                f"parents {limit['worst']:.2f}"
            )
        if found["repetitive"] == 1.0 and not limit["repetitive"]:
            return f"collapsed on the probe: {scorer}: every answer is empty or repeats itself"
    return None


def _signals(metrics: Mapping[str, Sequence[Any]]) -> dict[str, float | None]:
    """Means of the signals that tell a collapse, None where nothing has a value."""
    found: dict[str, float | None] = {}
    for signal in ("target_nats", "repetitive"):
        values = [value for value in metrics.get(signal, ()) if value is not None]
        found[signal] = sum(values) / len(values) if values else None
    return found
