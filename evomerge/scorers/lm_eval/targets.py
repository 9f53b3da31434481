"""The right answers of a task's documents, as a model would write them."""

from __future__ import annotations

from typing import Any

from evomerge.scorers.lm_eval.signals import Signals, plain


def why_nothing(task: Any, signals: Signals) -> str:
    """Why the items of ``task`` teach nothing; empty if they do."""
    kind = task.OUTPUT_TYPE
    if kind == "multiple_choice":
        if "margin" in signals.names:
            return ""
        return "it computes its results by code of its own, so nobody knows which choice is right"
    if kind == "generate_until":
        if plain(task) and task.config.doc_to_target is not None:
            return ""
        return "its answers are judged by code of its own: there is no right answer to teach"
    return "it has no wrong answer that the right one could lead; an unbounded loss is not descended on"


def written_target(task: Any, doc: Any) -> str | None:
    """What is to be written, as a few-shot example would have it; None if there is no such text."""
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = next(iter(target), None)
    if not isinstance(target, str) or not target.strip():
        return None
    delimiter = task.config.target_delimiter
    return target if target[:1].isspace() else f"{delimiter}{target}"
