"""The shortlist on the select split: who is beaten, whose scores cannot be compared, who goes on."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.evolution.core import Search
from evomerge.evolution.history import Dropped, Verdict
from evomerge.judging.health import asymmetries
from evomerge.judging.race import ALPHA, Race, e_value
from evomerge.suite.scorer import Items, Results
from evomerge.suite.suite import Suite


def judge(
    search: Search,
    suite: Suite,
    race: Race | str,
    items: Items,
    results: Callable[[int], Results],
) -> Verdict:
    """The verdict on the newest round, which is complete.

    The leader is the best valid merge. Who is beaten by it is dropped, but for base, parents and
    baselines, which the report needs. If the truly best merge were to be dropped, some other one would
    have to beat it: each of them does so with probability alpha over their number.

    Args:
        search: holds the round and its scores.
        suite: measures.
        race: how merges are compared, or why they cannot be.
        items: of the round.
        results: candidate -> its responses to these items.
    """
    batch = search.batches[-1]
    references = {c.id: c.origin for c in search.batches[0].candidates}
    ids = [e.candidate for e in search.ranked(batch.number) if e.candidate not in references]
    known = {origin: results(id) for id, origin in references.items()}
    invalid: dict[int, list[str]] = {}
    if suite.spec.gates:
        found = {id: asymmetries(suite, results(id), known) for id in ids}
        invalid = {id: reasons for id, reasons in found.items() if reasons}
    valid = [id for id in ids if id not in invalid]
    asked, whole = _count(items), _count(suite.splits["select"])
    first = next(b for b in search.batches if b.phase == "select")
    if isinstance(race, str):
        return Verdict(batch.number, True, (), invalid, unraced=race)
    if asked == whole:
        why = "it has no more sources than strata" if batch is first else ""
        return Verdict(batch.number, True, (), invalid, unraced=why)
    beaten = []
    if valid:
        leader, ours = valid[0], results(valid[0])
        level = (len(first.candidates) - len(references)) / ALPHA
        evidence = {id: e_value(race.leads(ours, results(id))) for id in ids if id != leader}
        beaten = [Dropped(id, leader, e, asked) for id, e in evidence.items() if e >= level]
    dropped = tuple(each for each in beaten if each.candidate not in search.baselines)
    last = len(ids) - len(beaten) <= 1
    spared = len(ids) + len(references) if last else len(dropped)
    return Verdict(batch.number, last, dropped, invalid, spared * (whole - asked))


def _count(items: Items) -> int:
    return sum(map(len, items.values()))
