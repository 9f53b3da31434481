"""Health gates: is a merge better, or was the parent it has to beat only hindered?

A parent whose answers run into a length cap, or come in a form that no filter reads, scores less
than it is able to; a merge without that trouble looks better and need not be. The signals of such
trouble (see ``SIGNALS``) are compared item by item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.inference.comparison import mcnemar
from evomerge.suite.objectives import BASE, Objective, aimed
from evomerge.suite.scorer import Responses, Results, column
from evomerge.suite.suite import Suite

RATE = 0.05  # rates that differ by less are alike ...
P = 0.05  # ... and so are those that chance can explain
SHARE = 0.5  # of a gain, due to a trouble, makes it an artefact ...
POINTS = 0.02  # ... if that is this much, of 1 or of what values measure
ENOUGH = 10  # answers without trouble that show what a parent is able to

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Trouble:
    """What a signal says of an answer, and what helps a parent that is in trouble."""

    signal: str
    says: str
    advice: str
    wanted: str  # an objective whose metric has this in its name is about the trouble itself


_TROUBLES = (
    _Trouble(
        "truncated",
        "cut at the length cap",
        "raise max_gen_toks of {task}",
        "length",
    ),
    _Trouble(
        "unextracted",
        "in a form that the task's filter finds no answer in",
        "let a filter of {task} find it, or show the form in the prompt (num_fewshot)",
        "unextracted",
    ),
    _Trouble(
        "off_language",
        "in another language",
        "name the language in the prompt of {task}, or multiply its metric by in_language",
        "_language",
    ),
    _Trouble(
        "repetitive",
        "empty or an endless loop",
        "see whether {task} has the right chat template and stop sequences for the parent",
        "repetitive",
    ),
)


def asymmetries(suite: Suite, candidate: Results, references: Mapping[str, Results]) -> list[str]:
    """Why gains of a merge are artefacts of how models were evaluated; empty if they are none.

    Compared with the parent that is best at an objective, a gain is an artefact of a trouble if its
    rate differs significantly (5 points, and p < 0.05 by McNemar's test) and the answers in which
    the two models differ in it make up half of the gain, and two points. One makes up no more than
    what the parent gets without the trouble, on average: who cannot do a task was not hindered.

    Args:
        suite: names tasks and objectives.
        candidate: responses of the merge.
        references: responses of base and parents, by name, to the same items in the same order.
    """
    found = []
    parents = {name: results for name, results in references.items() if name != BASE}
    values = {name: suite.values(results) for name, results in parents.items()}
    neither = aimed(suite.objectives)
    for objective in suite.measured:
        if objective.name in neither:
            continue
        task = objective.scorer
        best = max(parents, key=lambda name: objective.sign * values[name][objective.name])
        ours, theirs = candidate[task], parents[best][task]
        for trouble in _TROUBLES:
            rates = _rates(trouble, ours, theirs)
            if rates is None or trouble.wanted in objective.metric:
                continue
            gain, artefact, size = _gain(objective, trouble, ours, theirs)
            if gain > 0 and artefact >= max(SHARE * gain, POINTS * size):
                found.append(  # the first is the cause: who is cut off has no answer to extract
                    f"{task}: {rates[1]:.0%} of {best}'s answers are {trouble.says}, {rates[0]:.0%} of the "
                    f"merge's; that makes up {min(1.0, artefact / gain):.0%} of its lead of {gain:.3f} at "
                    f"{objective.name}. To compare fairly, {trouble.advice.format(task=task)}, and start anew"
                )
                break
    return found


def notes(suite: Suite, candidate: Results, references: Mapping[str, Results]) -> list[str]:
    """Troubles that a merge has significantly more often than base and each parent.

    Args: as of ``asymmetries``.
    """
    found = []
    for task in suite.scorers:
        for trouble in _TROUBLES:
            rates = {
                name: _rates(trouble, candidate[task], results[task])
                for name, results in references.items()
            }
            more = {name: pair for name, pair in rates.items() if pair and pair[0] > pair[1]}
            if more and len(more) == len(rates):
                worst = max(more, key=lambda name: more[name][1])
                ours, theirs = more[worst]
                found.append(
                    f"{task}: {ours:.0%} of the answers are {trouble.says}; {worst}, the worst of base "
                    f"and parents, has {theirs:.0%}"
                )
    return found


def _rates(trouble: _Trouble, ours: Responses, theirs: Responses) -> tuple[float, float] | None:
    """How often each of the two has the trouble; None if it is unknown, or not clearly different."""
    own, other = _flags(trouble, ours), _flags(trouble, theirs)
    both = ~(np.isnan(own) | np.isnan(other))
    if not both.any():
        return None
    own, other = own[both], other[both]
    alike = abs(own.mean() - other.mean()) < RATE
    if alike or mcnemar(int((own > other).sum()), int((own < other).sum())) >= P:
        return None
    return float(own.mean()), float(other.mean())


def _gain(
    objective: Objective, trouble: _Trouble, ours: Responses, theirs: Responses
) -> tuple[float, float, float]:
    """Our lead at ``objective``, how much of it is an artefact of ``trouble``, the size of values."""
    own, other = (objective.sign * _numbers(column(r, objective.metric)) for r in (ours, theirs))
    flags = _flags(trouble, ours) - _flags(trouble, theirs)
    known = ~np.isnan(own + other + flags)
    own, other, flags = own[known], other[known], flags[known]
    if not known.any():
        return 0.0, 0.0, 1.0
    lead = own - other
    hindered, free = flags < 0, _flags(trouble, theirs)[known] == 0
    artefact = lead[hindered].sum()
    if free.sum() >= ENOUGH:
        able = np.maximum(other[free].mean() - other[hindered], 0.0)
        artefact = min(artefact, able.sum())
    artefact += lead[flags > 0].sum()
    return float(lead.mean()), float(artefact / len(lead)), max(1.0, float(np.abs(other).mean()))


def _flags(trouble: _Trouble, responses: Responses) -> Array:
    """``[items]``: 1 where the answer has the trouble, 0 where not, NaN where nothing is known."""
    metrics = responses["metrics"]
    flags = _numbers(metrics.get(trouble.signal, [None] * len(responses["items"])))
    if trouble.signal == "truncated" and "repetitive" in metrics:
        flags[_numbers(metrics["repetitive"]) == 1] = 0  # no cap is long enough for a loop
    return flags


def _numbers(values: Sequence[Any]) -> Array:
    """``[items]``; NaN for what is no number."""
    return np.array(
        [value if isinstance(value, (int, float)) else math.nan for value in values], np.float64
    )
