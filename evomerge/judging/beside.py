"""What the sources do together without being merged: rows beside the final table, made of answers that are there.

* ``blend``: each item is answered by one source, drawn for the item's original.
* ``mixture``: the choices of an item are as likely as they are to the sources on average. Of an answer that is
  written, only the whole is kept, and to draw a whole answer from the sources' mixture is to draw a source first:
  there it is the blend.

Neither is a merge: all sources have to run. So they cost no evaluation, enter no choice, and say what a merge has
to beat to be worth more than its parents side by side.

Papers: Lu et al., "Blending is all you need", https://arxiv.org/abs/2401.02994 (a model drawn for each turn).
Deviations: a draw for each original, once, so that siblings of an item are answered by one source.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from evomerge import seeds
from evomerge.errors import CandidateFailed
from evomerge.suite.scorer import Mixing, Responses, Results
from evomerge.suite.suite import Suite

BLEND, MIXTURE = "blend", "mixture"


def together(suite: Suite, answers: Mapping[str, Results], seed: int) -> dict[str, Results]:
    """Name -> what the sources answer together; empty where there are fewer than two of them.

    ``mixture`` is left out where nothing but whole answers are kept: it would be the blend.

    Args:
        suite: that asked.
        answers: source -> its answers, of all sources to the same items.
        seed: keys the draws.
    """
    if len(answers) < 2:
        return {}
    each = list(answers.values())
    blend = {
        name: _blend(suite, name, [results[name] for results in each], seed) for name in each[0]
    }
    mixed = {
        name: found
        for name in blend
        if (found := _mixture(suite, name, [results[name] for results in each])) is not None
    }
    return {BLEND: blend, **({MIXTURE: {**blend, **mixed}} if mixed else {})}


def _blend(suite: Suite, name: str, answers: list[Responses], seed: int) -> Responses:
    """Of each item the answer of the source that was drawn for its original."""
    items, source_of = answers[0]["items"], suite.source_of[name]
    at = [{item: row for row, item in enumerate(each["items"])} for each in answers]
    drawn = [int(seeds.unit(seed, BLEND, source_of[item]) * len(answers)) for item in items]
    picked = [(answers[k], at[k][item]) for k, item in zip(drawn, items, strict=True)]
    metrics = dict.fromkeys(metric for each in answers for metric in each["metrics"])
    return {
        "items": list(items),
        "responses": [each["responses"][row] for each, row in picked],
        "metrics": {
            metric: [
                each["metrics"][metric][row] if metric in each["metrics"] else None
                for each, row in picked
            ]
            for metric in metrics
        },
        "tokens": 0,
    }


def _mixture(suite: Suite, name: str, answers: list[Responses]) -> Responses | None:
    """The answers of the mean of the sources' distributions; None where what is kept does not tell them."""
    scorer = suite.scorers[name]
    found = None
    if isinstance(scorer, Mixing):
        with suppress(CandidateFailed):  # a metric that is no number of them
            found = scorer.mixed(answers)
    wanted = {
        factor
        for objective in suite.measured
        if objective.scorer == name
        for factor in objective.metric.split("*")
    }
    return found if found is not None and wanted <= set(found["metrics"]) else None
