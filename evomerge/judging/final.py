"""How the final table is made: every model of the report batch, and how far the winner can be trusted.

Every number has an interval, or is exact. The winner's differences to the others are paired, and
carry the p value of a test (see ``inference.comparison``). Three scores of the winner, on the search
items that it was found by, the select items that it was chosen by, and the report items that had
no say, show how much of the first was luck.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from evomerge.errors import CandidateFailed
from evomerge.evolution.candidate import Candidate
from evomerge.evolution.history import MERGED, History, Phase
from evomerge.inference.intervals import Interval, Resampled, jointly
from evomerge.judging.beside import together
from evomerge.judging.evidence import Bootstrap, ByObjective, compare, score_range
from evomerge.judging.floors import margins
from evomerge.judging.health import asymmetries, notes
from evomerge.judging.table import Beside, Count, Effort, Gain, Held, Row, Table, Trust
from evomerge.judging.volume import volume
from evomerge.rounding import Rounding
from evomerge.suite.objectives import BASE, counting, entering, weightless
from evomerge.suite.schedule import size
from evomerge.suite.scorer import Items, Results
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite

IntervalOf = Callable[[int, int], Interval]


def final_table(
    history: History,
    suite: Suite,
    results: Mapping[int, Results | None],
    seed: int,
    *,
    selected: Mapping[int, Results] | None = None,
    interval: IntervalOf | None = None,
    rounding: Rounding | None = None,
) -> Table:
    """The report batch.

    Args:
        history: done.
        suite: measures and combines.
        results: candidate -> responses on the report items; None where it failed.
        seed: keys the resamples.
        selected: responses of the winner, base and parents on the select items.
        interval: (batch, candidate) -> a score of the search, with its interval.
        rounding: what the dtype takes of the winner's changes.
    """
    winner = history.winner
    found = {id: responses for id, responses in results.items() if responses is not None}
    references = {c.id: c.origin for c in history.batches[0].candidates}
    known = {origin: found[id] for id, origin in references.items() if id in found}
    values = {origin: suite.values(responses) for origin, responses in known.items()}
    bootstrap = Bootstrap.of(suite, suite.splits[Split.REPORT], seed)
    estimates, scores = _scored(history, bootstrap, found)

    def score_of(id: int) -> Interval | None:
        if id not in found:
            return None
        if references.get(id) == BASE and suite.spec.combination != "mean":
            return Interval(0.0, 0.0, 0.0)  # scores are relative to it
        return scores[id].interval()

    def gain_over(id: int) -> Gain | None:
        if id not in found or id == winner:
            return None
        return gain(found[id], scores[id], references.get(id, ""))

    def gain(other: Results, score: Resampled, label: str = "") -> Gain | None:
        if winner is None or winner not in found:
            return None
        test = compare(
            suite, found[winner], other, values, history.gains, (seed, "swaps"), label=label
        )
        difference = jointly(operator.sub, scores[winner], score)
        return Gain(difference.interval(), test.p, test.how)

    def beside() -> Iterator[Beside]:
        if len(known) < len(references):
            return
        sources = {origin: answers for origin, answers in known.items() if origin != BASE}
        yardstick = {origin: estimates[id] for id, origin in references.items()}
        for label, answers in together(suite, sources, seed).items():
            with suppress(CandidateFailed):  # a metric that has no value of them
                values = bootstrap.values(answers, label)
                score = bootstrap.score(values, yardstick, history.gains)
                intervals = {name: each.interval() for name, each in values.items()}
                yield Beside(label, score.interval(), intervals, gain(answers, score))

    def leads_over(id: int) -> dict[str, Interval]:
        if winner is None or winner not in found or id not in found or id == winner:
            return {}
        ours, theirs = estimates[winner], estimates[id]
        return {name: jointly(operator.sub, ours[name], theirs[name]).interval() for name in ours}

    def invalid(id: int) -> tuple[str, ...]:
        reasons = list[str]()
        if id in found and id not in references and suite.spec.gates:
            reasons = asymmetries(suite, found[id], known)
        return tuple(reasons or history.invalid.get(id, ()))

    def remarks(id: int) -> tuple[str, ...]:
        merged = id in found and id not in references
        return tuple(notes(suite, found[id], known)) if merged else ()

    def floors_of(id: int) -> tuple[Held, ...]:
        if id not in found or len(known) < len(references):
            return ()
        return tuple(
            Held(
                each.objective.name,
                str(each.objective.floor),
                each.bound,
                not each.objective.maximize,
                each.margin.interval(),
            )
            for each in margins(bootstrap, found[id], known)
        )

    on_front = {m.candidate: m.probability for m in history.verdicts[-1].front}

    def label_of(candidate: Candidate) -> str:
        role = "winner" if candidate.id == winner else "front" if candidate.id in on_front else ""
        return f"{role}: {candidate.origin} #{candidate.id}" if role else candidate.origin

    rows = [
        Row(
            candidate=c.id,
            label=label_of(c),
            front=on_front.get(c.id),
            score=score_of(c.id),
            objectives={name: each.interval() for name, each in estimates.get(c.id, {}).items()},
            gain=gain_over(c.id),
            leads=leads_over(c.id),
            invalid=invalid(c.id),
            notes=remarks(c.id),
            floors=floors_of(c.id),
        )
        for c in history.batches[-1].candidates
    ]
    wanted = counting(weightless(suite.objectives, history.idle))
    sets: dict[str, list[int]] = {}
    if suite.spec.front:
        held = {row.candidate for row in rows if all(each.held for each in row.floors)}
        sets["front"] = [id for id in on_front if id in estimates and id in held]
        sets["parents"] = [id for id in references if id in estimates and id in held]
    searched = _search_score(history, suite, interval)
    chosen, chosen_items = _select_score(history, suite, selected or {}, seed)
    reported = scores[winner].interval() if winner in scores else None
    return Table(
        combine=suite.spec.combination,
        items=count(suite, suite.splits[Split.REPORT]),
        yardsticks={} if suite.spec.combination == "mean" else dict(history.gains),
        winner=winner,
        rows=tuple(sorted(rows, key=lambda row: (row.candidate == winner, row.front is not None))),
        trust=Trust(
            search=_possible(history, suite, searched),
            select=chosen,
            select_items=chosen_items,
            report=reported,
            gap=_gap(searched, reported, suite) if searched and reported else None,
            floors=None if winner is None else history.verdicts[-1].floors.get(winner),
            confidence=suite.spec.confidence,
            floors_on=suite.spec.floors_on,
            search_items=count_all(suite, suite.splits[Split.SEARCH]),
            anchored=any(
                o.scorer in suite.spec.anchors
                for o in entering(weightless(suite.objectives, history.idle))
            ),
        ),
        effort=Effort(
            candidates=history.tried,
            select_looks=history.looks,
            dropped=len(history.dropped),
            saved=history.saved,
            invalid={id: tuple(reasons) for id, reasons in history.invalid.items()},
        ),
        volume={
            name: volume(wanted, [estimates[id] for id in ids], base, history.gains).interval()
            for name, ids in sets.items()
            if (base := _base(estimates, references)) is not None
        },
        rounding=rounding,
        beside=tuple(beside()),
    )


def _base(
    estimates: Mapping[int, ByObjective], references: Mapping[int, str]
) -> ByObjective | None:
    return next(
        (estimates[id] for id, o in references.items() if o == BASE and id in estimates), None
    )


def _scored(
    history: History, bootstrap: Bootstrap, found: Mapping[int, Results]
) -> tuple[dict[int, ByObjective], dict[int, Resampled]]:
    """Objectives and combined score of each candidate, over the same resamples."""
    estimates = {id: bootstrap.values(responses, id) for id, responses in found.items()}
    references = {
        c.origin: estimates[c.id] for c in history.batches[0].candidates if c.id in estimates
    }
    scores = {
        id: bootstrap.score(values, references, history.gains) for id, values in estimates.items()
    }
    return estimates, scores


def _possible(history: History, suite: Suite, searched: Interval | None) -> Interval | None:
    """A search score, cut to what its metrics can be: an estimate, plus or minus its error, knows no ends."""
    if searched is None or searched.low == searched.high:
        return searched
    return searched.within(*score_range(history, suite.objectives, 0))


def _search_score(history: History, suite: Suite, interval: IntervalOf | None) -> Interval | None:
    """The score that the winner was found by; None if it came to the shortlist without one."""
    found = [] if history.winner is None else history.scored(history.winner, *MERGED)
    if interval is None or not found:
        return None
    known = interval(found[-1].batch, found[-1].candidate)
    if known.low == known.high and not _whole(history, suite, found[-1].batch):
        return Interval.unknown(known.value, "no spread")  # of a sample: that is not exact
    return known


def _whole(history: History, suite: Suite, batch: int) -> bool:
    """Whether a batch asked all items of the search split."""
    phase, progress = history.batches[batch].phase, history.batches[batch].progress
    sizes = {name: len(ids) for name, ids in suite.splits[Split.SEARCH].items()}
    if phase == Phase.START and suite.spec.start is None:
        return True
    count = suite.spec.start if phase == Phase.START else size(*suite.spec.candidate, progress)
    return all(n <= (count or 0) for name, n in sizes.items() if name not in suite.spec.anchors)


def _gap(searched: Interval, reported: Interval, suite: Suite) -> Interval:
    """By how much the search score is higher than the report's.

    Three errors are independent, so their squares add up, above and below: how far off the search
    score is for the search split; that the report split is a sample of sources; and that the search split
    is one, too, with the report's error scaled by the root of their numbers.
    """
    report, search = (
        count_all(suite, suite.splits[split]).sources for split in (Split.REPORT, Split.SEARCH)
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
    history: History, suite: Suite, selected: Mapping[int, Results], seed: int
) -> tuple[Interval | None, Count | None]:
    """The score that the winner was chosen by, and from how much."""
    winner = history.winner
    if winner is None or winner not in selected:
        return None, None
    items: Items = {name: list(found["items"]) for name, found in selected[winner].items()}
    _, scores = _scored(history, Bootstrap.of(suite, items, seed), selected)
    return scores[winner].interval(), count_all(suite, items)


def count(suite: Suite, items: Items) -> dict[str, Count]:
    """The ``items`` behind each objective and their ``sources``; a derived one has all of its parts'."""
    found = {}
    for objective in suite.objectives:
        scorers = dict.fromkeys(suite.scorers_of(objective))
        found[objective.name] = count_all(suite, {name: items[name] for name in scorers})
    return found


def count_all(suite: Suite, items: Items) -> Count:
    """``items`` and their distinct ``sources``."""
    sources = {suite.source_of[name][item] for name, ids in items.items() for item in ids}
    return Count(sum(map(len, items.values())), len(sources))
