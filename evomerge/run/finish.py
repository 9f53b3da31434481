"""The table at the end: every model of the report batch, and how far the winner can be trusted.

Every number has an interval, or is exact. The winner's differences to the others are paired, and
carry the p value of a test (see ``fitness.comparison``). Three scores of the winner, on the search
items that it was found by, the select items that it was chosen by, and the report items that had
no say, show how much of the first was luck.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from evomerge.evolution import Search
from evomerge.fitness.health import asymmetries, notes
from evomerge.fitness.intervals import Estimate, Interval, combine
from evomerge.fitness.objectives import BASE, counting
from evomerge.fitness.suite import Items, Results, Suite
from evomerge.run.evidence import Bootstrap, Estimates, compare

Plain = dict[str, Any]
IntervalOf = Callable[[int, int], Interval]


def final_table(
    search: Search,
    suite: Suite,
    results: Mapping[int, Results | None],
    seed: int,
    *,
    selected: Mapping[int, Results] | None = None,
    interval: IntervalOf | None = None,
) -> Plain:
    """The report batch as plain data.

    A row holds ``candidate``, ``label``, ``score`` and ``objectives`` (value, low, high), ``gain``: by
    how much the winner's score is higher (paired; with ``p`` and ``test``), and ``health``: why its
    scores cannot be compared (``invalid``), and what its answers suffer from (``notes``). ``missed`` says
    which floors it misses.

    Args:
        search: done.
        suite: measures and combines.
        results: candidate -> responses on the report items; None where it failed.
        seed: keys the resamples.
        selected: responses of the winner, base and parents on the select items.
        interval: (batch, candidate) -> a score of the search, with its interval.
    """
    winner = search.winner
    found = {id: responses for id, responses in results.items() if responses is not None}
    references = {c.id: c.origin for c in search.batches[0].candidates}
    known = {origin: found[id] for id, origin in references.items() if id in found}
    values = {origin: suite.values(responses) for origin, responses in known.items()}
    estimates, scores = _scored(search, Bootstrap.of(suite, suite.splits["report"], seed), found)

    def score_of(id: int) -> Plain:
        if references.get(id) == BASE and suite.spec.combination != "mean":
            return Interval(0.0, 0.0, 0.0).plain  # scores are relative to it
        return scores[id].interval().plain

    def gain_over(id: int) -> Plain | None:
        if winner is None or winner not in found or id not in found or id == winner:
            return None
        test = compare(
            suite, found[winner], found[id], values, search.gains, seed, "swaps",
            label=references.get(id, ""),
        )  # fmt: skip
        difference = combine(operator.sub, scores[winner], scores[id])
        return {**difference.interval().plain, "p": test.p, "test": test.how}

    def health_of(id: int) -> Plain:
        invalid, remarks = list[str](), list[str]()
        if id in found and id not in references:
            remarks = notes(suite, found[id], known)
            if suite.spec.gates:
                invalid = asymmetries(suite, found[id], known)
        return {"invalid": invalid or list(search.invalid.get(id, ())), "notes": remarks}

    def missed_by(id: int) -> list[str]:
        own = suite.values(found[id]) if id in found and len(known) == len(references) else {}
        floors = [
            (o, o.floor, o.floor.bound(o, values)) for o in suite.objectives if o.floor and own
        ]
        return [
            f"{o.name} is {own[o.name]:.3f} on these items, its {'floor' if o.maximize else 'ceiling'} "
            + (f"{floor}" if floor.of is None else f"{bound:.3f} ({floor})")
            for o, floor, bound in floors
            if o.sign * (bound - own[o.name]) > 0
        ]

    rows = [
        {
            "candidate": c.id,
            "label": f"winner: {c.origin} #{c.id}" if c.id == winner else c.origin,
            "score": score_of(c.id) if c.id in found else None,
            "objectives": {n: e.interval().plain for n, e in estimates.get(c.id, {}).items()},
            "gain": gain_over(c.id),
            "health": health_of(c.id),
            "missed": missed_by(c.id),
        }
        for c in search.batches[-1].candidates
    ]
    searched = _search_score(search, interval)
    reported = scores[winner].interval() if winner in scores else None
    return {
        "split": "report",
        "combine": suite.spec.combination,
        "items": count(suite, suite.splits["report"]),
        "yardsticks": {} if suite.spec.combination == "mean" else dict(search.gains),
        "winner": winner,
        "rows": sorted(rows, key=lambda row: row["candidate"] == winner),
        "trust": {
            "search": searched and searched.plain,
            "select": _select_score(search, suite, selected or {}, seed),
            "report": reported and reported.plain,
            "gap": searched and reported and _gap(searched, reported, suite).plain,
            "search_items": count_all(suite, suite.splits["search"]),
            "anchored": any(o.scorer in suite.spec.anchors for o in counting(suite.objectives)),
        },
        "effort": {
            "candidates": len(search.candidates) - len(references),
            "select_looks": search.looks,
            "dropped": len(search.dropped),
            "saved": search.saved,
            "invalid": {str(id): list(reasons) for id, reasons in search.invalid.items()},
        },
    }


def _scored(
    search: Search, bootstrap: Bootstrap, found: Mapping[int, Results]
) -> tuple[dict[int, Estimates], dict[int, Estimate]]:
    """Objectives and combined score of each candidate, over the same resamples."""
    estimates = {id: bootstrap.values(responses, id) for id, responses in found.items()}
    references = {
        c.origin: estimates[c.id] for c in search.batches[0].candidates if c.id in estimates
    }
    scores = {
        id: bootstrap.score(values, references, search.gains) for id, values in estimates.items()
    }
    return estimates, scores


def _search_score(search: Search, interval: IntervalOf | None) -> Interval | None:
    """The score that the winner was found by; None if it came to the shortlist without one."""
    found = [e for e in search.elites("start", "search") if e.candidate == search.winner]
    if interval is None or not found:
        return None
    return interval(found[-1].batch, found[-1].candidate)


def _gap(searched: Interval, reported: Interval, suite: Suite) -> Interval:
    """By how much the search score is higher than the report's.

    Three errors are independent, so their squares add up, above and below: how far off the search
    score is for the search split; that the report split is a sample of sources; and that the search split
    is one, too, with the report's error scaled by the root of their numbers.
    """
    report, search = (
        count_all(suite, suite.splits[split])["sources"] for split in ("report", "search")
    )
    value = searched.value - reported.value
    if why := searched.why or reported.why:
        return Interval.unknown(value, why)
    below, above = reported.value - reported.low, reported.high - reported.value
    scale = math.sqrt(report / search)
    return Interval(
        value,
        value - math.hypot(searched.value - searched.low, above, scale * below),
        value + math.hypot(searched.high - searched.value, below, scale * above),
    )


def _select_score(
    search: Search, suite: Suite, selected: Mapping[int, Results], seed: int
) -> Plain | None:
    """The score that the winner was chosen by."""
    winner = search.winner
    if winner is None or winner not in selected:
        return None
    items: Items = {name: list(found["items"]) for name, found in selected[winner].items()}
    _, scores = _scored(search, Bootstrap.of(suite, items, seed), selected)
    return {**scores[winner].interval().plain, **count_all(suite, items)}


def count(suite: Suite, items: Items) -> dict[str, dict[str, int]]:
    """The ``items`` behind each objective and their ``sources``; a derived one has all of its parts'."""
    scorer_of = {objective.name: objective.scorer for objective in suite.measured}
    found = {}
    for objective in suite.objectives:
        scorers = dict.fromkeys(scorer_of[name] for name in objective.of or (objective.name,))
        found[objective.name] = count_all(suite, {name: items[name] for name in scorers})
    return found


def count_all(suite: Suite, items: Items) -> dict[str, int]:
    """``items`` and their distinct ``sources``."""
    sources = {suite.source_of[name][item] for name, ids in items.items() for item in ids}
    return {"items": sum(map(len, items.values())), "sources": len(sources)}


def provenance(table: Mapping[str, Any]) -> Plain:
    """What the winner's recipe says beside its own scores, from the final table.

    ``beside`` holds its paired differences to base, parents and baselines: value, low, high and p.
    """
    trust, winner = table["trust"], table["winner"]
    own = next((row for row in table["rows"] if row["candidate"] == winner), None)
    found: Plain = {"select_looks": table["effort"]["select_looks"]}
    if trust["select"]:
        found["select_score"] = trust["select"]
    if own and own["score"]:
        found["beside"] = {row["label"]: row["gain"] for row in table["rows"] if row["gain"]}
        if own["health"]["invalid"]:
            found["invalid"] = own["health"]["invalid"]
        if trust["gap"]:
            found["search_less_report"] = trust["gap"]
    return found
