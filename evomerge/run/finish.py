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
from evomerge.fitness.suite import Items, Results, Suite
from evomerge.run.scores import Bootstrap, Estimates, compare

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
    scores cannot be compared (``invalid``), and what its answers suffer from (``notes``).

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

    def gain_over(id: int) -> Plain | None:
        if winner is None or winner not in found or id not in found or id == winner:
            return None
        test = compare(
            suite, found[winner], found[id], values, search.gains, seed, "swaps",
            label=references.get(id, ""),
        )  # fmt: skip
        difference = combine(operator.sub, scores[winner], scores[id])
        return {**plain_interval(difference), "p": test.p, "test": test.how}

    def health_of(id: int) -> Plain:
        invalid, remarks = list[str](), list[str]()
        if id in found and id not in references:
            remarks = notes(suite, found[id], known)
            if suite.spec.gates:
                invalid = asymmetries(suite, found[id], known)
        return {"invalid": invalid or list(search.invalid.get(id, ())), "notes": remarks}

    rows = [
        {
            "candidate": c.id,
            "label": f"winner: {c.origin} #{c.id}" if c.id == winner else c.origin,
            "score": plain_interval(scores[c.id]) if c.id in found else None,
            "objectives": {n: plain_interval(e) for n, e in estimates.get(c.id, {}).items()},
            "gain": gain_over(c.id),
            "health": health_of(c.id),
        }
        for c in search.batches[-1].candidates
    ]
    return {
        "split": "report",
        "combine": suite.spec.combination,
        "items": count_items(suite, suite.splits["report"]),
        "yardsticks": {} if suite.spec.combination == "mean" else dict(search.gains),
        "winner": winner,
        "rows": sorted(rows, key=lambda row: row["candidate"] == winner),
        "trust": {
            "search": _search_score(search, interval),
            "select": _select_score(search, suite, selected or {}, seed),
            "report": plain_interval(scores[winner]) if winner in scores else None,
            "search_items": sum(map(len, suite.splits["search"].values())),
        },
        "effort": {
            "candidates": len(search.candidates) - len(references),
            "select_looks": search.looks,
            "dropped": len(search.dropped),
            "saved": search.saved,
        },
    }


def _scored(
    search: Search, bootstrap: Bootstrap, found: Mapping[int, Results]
) -> tuple[dict[int, Estimates], dict[int, Estimate]]:
    """Objectives and combined score of each candidate, over the same resamples."""
    estimates = {id: bootstrap.values(responses) for id, responses in found.items()}
    references = {
        c.origin: estimates[c.id] for c in search.batches[0].candidates if c.id in estimates
    }
    scores = {
        id: bootstrap.score(values, references, search.gains) for id, values in estimates.items()
    }
    return estimates, scores


def _search_score(search: Search, interval: IntervalOf | None) -> Plain | None:
    """The score that the winner was found by; None if it came to the shortlist without one."""
    found = [e for e in search.elites("start", "search") if e.candidate == search.winner]
    if interval is None or not found:
        return None
    score = interval(found[-1].batch, found[-1].candidate)
    return _plain(score)


def _select_score(
    search: Search, suite: Suite, selected: Mapping[int, Results], seed: int
) -> Plain | None:
    """The score that the winner was chosen by."""
    winner = search.winner
    if winner is None or winner not in selected:
        return None
    items: Items = {name: list(found["items"]) for name, found in selected[winner].items()}
    _, scores = _scored(search, Bootstrap.of(suite, items, seed), selected)
    return {**plain_interval(scores[winner]), "items": sum(map(len, items.values()))}


def count_items(suite: Suite, items: Items) -> dict[str, int]:
    """Items behind each objective; those of a derived one are all of its parts'."""
    of = {objective.name: len(items[objective.scorer]) for objective in suite.measured}
    return {
        objective.name: sum(of[name] for name in objective.of or (objective.name,))
        for objective in suite.objectives
    }


def plain_interval(estimate: Estimate) -> Plain:
    """Value and bounds for JSON; unknown bounds are None."""
    return _plain(estimate.interval())


def _plain(interval: Interval) -> Plain:
    low, high = (bound if math.isfinite(bound) else None for bound in (interval.low, interval.high))
    return {"value": interval.value, "low": low, "high": high}


def provenance(table: Mapping[str, Any]) -> Plain:
    """What the winner's recipe says of its scores, from the final table.

    ``beside`` holds its paired differences to base, parents and baselines: value, low, high and p.
    """
    trust, winner = table["trust"], table["winner"]
    own = next((row for row in table["rows"] if row["candidate"] == winner), None)
    found: Plain = {"select_looks": table["effort"]["select_looks"]}
    if own and own["score"]:
        found["report"] = {key: own[key] for key in ("score", "objectives")}
        found["beside"] = {row["label"]: row["gain"] for row in table["rows"] if row["gain"]}
        if own["health"]["invalid"]:
            found["invalid"] = own["health"]["invalid"]
        if trust["search"]:
            found["search_less_report"] = trust["search"]["value"] - trust["report"]["value"]
    rounded: Plain = _rounded(found)
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 6) if isinstance(value, float) else value


# -- the table as text -----------------------------------------------------------------------------


def table_rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The final table as texts, heading first; a column on health if there is anything to say."""
    objectives = list(table["items"])
    heading = ("model", f"score ({table['combine']})", *objectives, "winner - model", "p", "health")
    rows = [heading]
    for row in table["rows"]:
        score, gain, texts = row["score"], row["gain"], [""] * len(objectives)
        if score:
            texts = [interval_text(row["objectives"][name]) for name in objectives]
        rows.append(
            (
                row["label"],
                interval_text(score) if score else "failed",
                *texts,
                interval_text(gain) if gain else "",
                _p_text(gain["p"]) if gain else "",
                _health_text(row["health"]),
            )
        )
    return rows if any(row[-1] for row in rows[1:]) else [row[:-1] for row in rows]


def table_title(table: Mapping[str, Any]) -> str:
    """What the final table shows, in a line."""
    items = ", ".join(f"{count} {name}" for name, count in table["items"].items())
    return f"report split ({items} items; 95% intervals)"


def table_notes(table: Mapping[str, Any]) -> list[str]:
    """What has to be said with the table, a sentence or two a line."""
    lines = [*_trust_lines(table), _effort_line(table["effort"])]
    tests = sorted({row["gain"]["test"] for row in table["rows"] if row["gain"]})
    if tests:
        lines.append(
            f"p: {', '.join(tests)}; two-sided, each row by itself. The differences are paired: "
            "they can be clear where the models' own intervals overlap."
        )
    for row in table["rows"]:
        lines += [f"INVALID: {row['label']}: {reason}." for reason in row["health"]["invalid"]]
        lines += [f"note: {row['label']}: {note}." for note in row["health"]["notes"]]
    return lines


def _trust_lines(table: Mapping[str, Any]) -> list[str]:
    trust, lines = table["trust"], list[str]()
    searched, selected, report = trust["search"], trust["select"], trust["report"]
    where = f"{trust['search_items']} search items"
    if report is not None:
        parts = ["search: never scored there"]
        if searched is not None:
            parts = [f"search {_searched_text(searched, where)}"]
        if selected is not None:
            parts.append(f"select {interval_text(selected)} ({selected['items']} items)")
        parts.append(f"report {interval_text(report)}")
        lines.append(f"the winner's score: {', '.join(parts)}.")
    if report is not None and searched is not None:
        found = searched["value"]
        low, high = (
            None if report[end] is None else found - report[end] for end in ("high", "low")
        )
        gap = {"value": found - report["value"], "low": low, "high": high}
        lines.append(f"gap, search less report: {interval_text(gap)}.")
    if table["yardsticks"]:
        units = ", ".join(f"{name} {value:.3f}" for name, value in table["yardsticks"].items())
        lines.append(f"gains that count 1 in the score (exact on the {where}): {units}.")
    return lines


def _searched_text(score: Mapping[str, Any], where: str) -> str:
    if score["low"] is None:
        return f"{score['value']:.3f} (of a sample; its error is unknown)"
    if score["low"] == score["high"]:
        return f"{score['value']:.3f} (exact on the {where})"
    return f"{interval_text(score)} (estimated for the {where})"


def _effort_line(effort: Mapping[str, Any]) -> str:
    text = (
        f"{effort['candidates']} candidates tried; {effort['select_looks']} scores taken on the select "
        "split"
    )
    if effort["dropped"]:
        text += (
            f", where racing dropped {effort['dropped']} early and saved {effort['saved']} "
            "item-evaluations"
        )
    return f"{text}."


def table_markdown(table: Mapping[str, Any]) -> str:
    """The final table as Markdown."""
    heading, *rows = table_rows(table)
    rule = ("---", *("---:" for _ in heading[1:]))
    lines = [f"| {' | '.join(row)} |" for row in (heading, rule, *rows)]
    remarks = [f"* {note}" for note in table_notes(table)]
    return "\n".join([table_title(table), "", *lines, "", *remarks]) + "\n"


def interval_text(interval: Mapping[str, Any]) -> str:
    """``0.781 [0.742, 0.812]``, or ``0.781 [too few items]``."""
    if interval["low"] is None:
        return f"{interval['value']:.3f} [too few items]"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _health_text(health: Mapping[str, Any]) -> str:
    if health["invalid"]:
        return "INVALID"
    return "see note" if health["notes"] else ""


def _p_text(p: float | None) -> str:
    if p is None:
        return "no test"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
