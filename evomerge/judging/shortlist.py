"""The shortlist on the select split: who is beaten, whose scores cannot be compared, who goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from evomerge.evolution.archive.front import spread
from evomerge.evolution.history import MISSED, Dropped, History, Member, Verdict
from evomerge.judging.evidence import Bootstrap
from evomerge.judging.floors import margins, probability
from evomerge.judging.front import confirm
from evomerge.judging.health import asymmetries
from evomerge.judging.race import ALPHA, Race, e_value
from evomerge.suite.objectives import counting, weightless
from evomerge.suite.scorer import Items, Results
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite


def judge(
    history: History,
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
        history: holds the round and its scores.
        suite: measures.
        race: how merges are compared, or why they cannot be.
        items: of the round.
        results: candidate -> its responses to these items.
    """
    batch = history.batches[-1]
    references = {c.id: c.origin for c in history.batches[0].candidates}
    ids = [e.candidate for e in history.ranked(batch.number) if e.candidate not in references]
    known = {origin: results(id) for id, origin in references.items()}
    invalid: dict[int, list[str]] = {}
    if suite.spec.gates:
        found = {id: asymmetries(suite, results(id), known) for id in ids}
        invalid = {id: reasons for id, reasons in found.items() if reasons}
    valid = [id for id in ids if id not in invalid]
    asked, whole = _count(items), _count(suite.splits[Split.SELECT])
    first = history.rounds[0]
    if isinstance(race, str):
        bootstrap, floors = Bootstrap.of(suite, items, 0), dict[int, float]()
        if any(objective.floor for objective in suite.objectives):
            floors = {id: probability(margins(bootstrap, results(id), known)) for id in ids}
        verdict = Verdict(
            *(batch.number, True, (), invalid),
            unraced=race,
            floors=floors,
            confidence=suite.spec.confidence,
        )
        members = _front(history, bootstrap, results, list(references), valid, verdict)
        return replace(verdict, front=members)
    if asked == whole:
        why = "it has no more sources than strata" if batch is first else ""
        return Verdict(batch.number, True, (), invalid, unraced=why)
    beaten = []
    if valid:
        leader, ours = valid[0], results(valid[0])
        level = (len(first.candidates) - len(references)) / ALPHA
        evidence = {id: e_value(race.leads(ours, results(id))) for id in ids if id != leader}
        beaten = [Dropped(id, leader, e, asked) for id, e in evidence.items() if e >= level]
    dropped = tuple(each for each in beaten if each.candidate not in history.baselines)
    last = len(ids) - len(beaten) <= 1
    spared = len(ids) + len(references) if last else len(dropped)
    return Verdict(batch.number, last, dropped, invalid, spared * (whole - asked))


def _count(items: Items) -> int:
    return sum(map(len, items.values()))


def _front(
    history: History,
    bootstrap: Bootstrap,
    results: Callable[[int], Results],
    references: Sequence[int],
    valid: Sequence[int],
    verdict: Verdict,
) -> tuple[Member, ...]:
    """The confirmed members of the front, if one is wanted, best first by score.

    Of more than are wanted, those that stand for all of them. Where some merge has its floors confirmed,
    only such merges are on it.
    """
    suite = bootstrap.suite
    if not suite.spec.front:
        return ()
    objectives = counting(weightless(suite.objectives, history.idle))
    count = suite.spec.front
    tiers = {id: verdict.tier(id) for id in valid}
    highest = min(tiers.values(), default=0)
    ranked = [
        elite
        for elite in history.ranked(history.batches[-1].number)
        if (elite.candidate in references and elite.score.feasible)
        or (highest < MISSED and tiers.get(elite.candidate) == highest)
    ]
    answers = {elite.candidate: results(elite.candidate) for elite in ranked}
    merges = [id for id in answers if id not in references]
    confirmed = confirm(bootstrap, objectives, answers, merges)
    if len(confirmed) > count:
        ids = {member.candidate for member in confirmed}
        chosen = spread([elite for elite in ranked if elite.candidate in ids], objectives, count)
        kept = {elite.candidate for elite in chosen}
        confirmed = tuple(member for member in confirmed if member.candidate in kept)
    return confirmed
