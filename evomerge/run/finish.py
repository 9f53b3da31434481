"""The table at the end: every model of the report batch, with intervals.

Intervals are bootstrap percentiles over sources; the same resamples serve all models, so the
difference of two models is paired item by item.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.evolution import Search
from evomerge.fitness.intervals import Estimate, Interval, Resamples, combine
from evomerge.fitness.objectives import Objective
from evomerge.fitness.suite import Results, Suite

DRAWS = 1000

Estimates = dict[str, Estimate]  # objective name -> estimate


def final_table(
    search: Search, suite: Suite, results: Mapping[int, Results | None], seed: int
) -> dict[str, Any]:
    """The report batch as plain data: one row a model.

    A row holds ``candidate``, ``label``, ``score`` and ``objectives`` (value, low, high), and
    ``gain``: by how much the winner's score is higher (paired).

    Args:
        search: done.
        suite: measures and combines.
        results: candidate -> responses on the report items; None where it failed.
        seed: keys the resamples.
    """
    batch = search.batches[-1]
    items = suite.splits["report"]
    resamples = _resamples(suite, items, seed)
    estimates = {
        c.id: _estimates(suite, found, resamples)
        for c in batch.candidates
        if (found := results[c.id])
    }
    references = {
        c.origin: estimates[c.id] for c in search.batches[0].candidates if c.id in estimates
    }
    scores = {
        candidate: score_estimate(suite, values, references, search.gains)
        for candidate, values in estimates.items()
    }
    best = scores.get(search.winner) if search.winner is not None else None
    rows = []
    for candidate in batch.candidates:
        score = scores.get(candidate.id)
        own = candidate.id == search.winner
        rows.append(
            {
                "candidate": candidate.id,
                "label": f"winner: {candidate.origin} #{candidate.id}" if own else candidate.origin,
                "score": _plain(score),
                "objectives": {n: _plain(e) for n, e in estimates.get(candidate.id, {}).items()},
                "gain": None
                if best is None or score is None or own
                else _plain(combine(operator.sub, best, score)),
            }
        )
    return {
        "split": "report",
        "combine": suite.spec.combination,
        "items": {o.name: len(items[o.scorer]) for o in suite.objectives},
        "winner": search.winner,
        "rows": sorted(rows, key=lambda row: row["candidate"] == search.winner),
    }


def table_rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The final table as texts, heading first."""
    objectives = list(table["items"])
    heading = ("model", f"score ({table['combine']})", *objectives, "winner - model")
    rows = [heading]
    for row in table["rows"]:
        if row["score"] is None:
            rows.append((row["label"], "failed", *("" for _ in objectives), ""))
            continue
        values = (row["score"], *(row["objectives"][name] for name in objectives))
        gain = interval_text(row["gain"]) if row["gain"] else ""
        rows.append((row["label"], *map(interval_text, values), gain))
    return rows


def table_title(table: Mapping[str, Any]) -> str:
    """What the final table shows, in a line."""
    items = ", ".join(f"{count} {name}" for name, count in table["items"].items())
    return f"report split ({items} items; 95% intervals)"


def table_markdown(table: Mapping[str, Any]) -> str:
    """The final table as Markdown."""
    heading, *rows = table_rows(table)
    rule = ("---", *("---:" for _ in heading[1:]))
    lines = [f"| {' | '.join(row)} |" for row in (heading, rule, *rows)]
    return "\n".join([table_title(table), "", *lines]) + "\n"


def interval_text(interval: Mapping[str, float]) -> str:
    """``0.781 [0.742, 0.812]``; the bounds are left out where nothing is known of them."""
    if interval["low"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def objective_intervals(suite: Suite, results: Results, *, seed: int) -> dict[str, dict[str, Any]]:
    """Objective -> value, low, high and number of items, from one model's responses."""
    items = {name: list(responses["items"]) for name, responses in results.items()}
    estimates = _estimates(suite, results, _resamples(suite, items, seed))
    counts = {o.name: len(items[o.scorer]) for o in suite.objectives}
    return {
        name: {**(_plain(estimate) or {}), "items": counts[name]}
        for name, estimate in estimates.items()
    }


def score_interval(
    suite: Suite,
    results: Results,
    references: Mapping[str, Results],
    gains: Mapping[str, float],
    seed: int,
) -> Interval:
    """The combined score of one model with its interval; ``references`` on (at least) its items."""
    items = {name: list(responses["items"]) for name, responses in results.items()}
    resamples = _resamples(suite, items, seed)
    known = {name: _estimates(suite, found, resamples, items) for name, found in references.items()}
    return score_estimate(suite, _estimates(suite, results, resamples), known, gains).interval()


def score_estimate(
    suite: Suite, values: Estimates, references: Mapping[str, Estimates], gains: Mapping[str, float]
) -> Estimate:
    """The combined score, draw by draw: candidate and references move together."""
    names = [objective.name for objective in suite.objectives]
    labels = list(references)

    def score(*flat: float) -> float:
        rows = [
            dict(zip(names, flat[i : i + len(names)], strict=True))
            for i in range(0, len(flat), len(names))
        ]
        return suite.combine(rows[0], dict(zip(labels, rows[1:], strict=True)), gains).value

    columns = [values, *references.values()]
    return combine(score, *(column[name] for column in columns for name in names))


def _resamples(suite: Suite, items: Mapping[str, Sequence[str]], seed: int) -> Resamples:
    sources = [suite.source_of[name][item] for name, ids in items.items() for item in ids]
    return Resamples.of(sources, DRAWS, seed, "intervals")


def _estimates(
    suite: Suite,
    results: Results,
    resamples: Resamples,
    items: Mapping[str, Sequence[str]] | None = None,
) -> Estimates:
    return {o.name: _estimate(suite, o, results, resamples, items) for o in suite.objectives}


def _estimate(
    suite: Suite,
    objective: Objective,
    results: Results,
    resamples: Resamples,
    items: Mapping[str, Sequence[str]] | None,
) -> Estimate:
    """One objective, on ``items`` of the responses (default: all)."""
    responses = results[objective.scorer]
    value_of = dict(zip(responses["items"], responses["metrics"][objective.metric], strict=True))
    chosen = [
        item for item in (items or {}).get(objective.scorer, value_of) if value_of[item] is not None
    ]
    values = [value_of[item] for item in chosen]
    sources = [suite.source_of[objective.scorer][item] for item in chosen]
    scorer = suite.scorers[objective.scorer]
    numbers = all(isinstance(value, (int, float)) for value in values)
    if numbers and math.isclose(
        scorer.aggregate(objective.metric, values), float(np.mean(values)), abs_tol=1e-12
    ):
        return resamples.mean(values, sources)
    return resamples.statistic(
        lambda index: scorer.aggregate(objective.metric, [values[i] for i in index]), sources
    )


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    """Value and bounds for JSON; unknown bounds are None."""
    if estimate is None:
        return None
    interval = estimate.interval()
    low, high = (bound if math.isfinite(bound) else None for bound in (interval.low, interval.high))
    return {"value": interval.value, "low": low, "high": high}
