"""The right answers of a task's documents, as a model would write them."""

from __future__ import annotations

from typing import Any

from evomerge.scorers.lm_eval.loading import GENERATES, writes_requests
from evomerge.scorers.lm_eval.signals import LIKELIHOODS, Signals, plain


def why_nothing(task: Any, signals: Signals) -> str:
    """Why the items of ``task`` teach nothing; empty if they do."""
    kind = task.OUTPUT_TYPE
    if kind == "multiple_choice":
        if "margin" in signals.names:
            return ""
        return "it computes its results by code of its own, so nobody knows which choice is right"
    if kind == GENERATES and writes_requests(task):
        return "code of its own decides what it asks, so nobody knows what a right answer is"
    if kind in (GENERATES, "loglikelihood") or of_likelihood(task):
        return ""
    return "it has no wrong answer that the right one could lead; an unbounded loss is not descended on"


def of_likelihood(task: Any) -> bool:
    """Whether ``task`` asks how likely texts are and less is better of all that it measures: bits, perplexity."""
    return task.OUTPUT_TYPE in LIKELIHOODS and not any(task.higher_is_better().values())


def why_shown(task: Any, signals: Signals) -> str:
    """Why what ``task`` states is not what a model would write as a right answer; empty if it is."""
    if task.OUTPUT_TYPE != GENERATES:
        return ""
    if not plain(task) or task.config.doc_to_target is None:
        return "its answers are judged by code of its own"
    if "unextracted" in signals.names:
        return "its answers are read off texts that say more"
    return ""


def written_target(task: Any, doc: Any) -> str | None:
    """What is to be written, as a few-shot example would have it; None if there is no such text."""
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = next(iter(target), None)
    if not isinstance(target, str) or not target.strip():
        return None
    delimiter = task.config.target_delimiter
    return target if target[:1].isspace() else f"{delimiter}{target}"
