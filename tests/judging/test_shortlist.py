"""Judging a round of the shortlist, from planted answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from evomerge.checkpoint import ModelRef
from evomerge.evolution.candidate import Candidate
from evomerge.evolution.history import Batch, Evaluation, History, Phase, Verdict
from evomerge.judging.race import Race
from evomerge.judging.shortlist import judge
from evomerge.recipe import Body, Recipe, group
from evomerge.suite.objectives import Objective, combine, yardsticks
from evomerge.suite.suite import Suite

WHOLE = [f"q{n}" for n in range(200)]
HALF = WHOLE[:100]
OBJECTIVE = Objective("task", "task", "acc")


def history_of(rights: Mapping[str, str]) -> History:
    """One whose shortlist is ``rights``: label -> answers right (1) or wrong (0), repeated."""
    history = History(
        lambda v, r, g: combine([OBJECTIVE], "mean", v, r, g),
        lambda r: yardsticks([OBJECTIVE], r),
    )
    models = {"chat": ModelRef("c"), "sea": ModelRef("s")}
    recipe = Recipe(None, models, Body((group("linear", ("chat", "sea")),)), "float32", 0, "chat")
    members = [Candidate(id, label, recipe) for id, label in enumerate(rights)]
    batches = {
        Phase.REFERENCES: members[:2],
        Phase.START: members[2:3],
        Phase.SELECT: members,
    }
    for number, (phase, candidates) in enumerate(batches.items()):
        history.open(Batch(number, phase, tuple(candidates)))
        for c in candidates:
            bits = rights[c.origin]
            values = {"task": bits.count("1") / len(bits)} if bits else None
            history.observe(Evaluation(number, c.id, values, None if bits else "NotFinite"))
    return history


class Accuracy:
    def aggregate(self, metric: str, values: Sequence[float]) -> float:
        return sum(values) / len(values)


def judged(rights: Mapping[str, str], items: Sequence[str] = HALF, **signals: Any) -> Verdict:
    history = history_of(rights)
    suite: Any = SimpleNamespace(
        objectives=[OBJECTIVE],
        measured=[OBJECTIVE],
        spec=SimpleNamespace(combination="mean", gates=True, front=0),
        splits={"select": {"task": WHOLE}},
        source_of={"task": {id: id for id in WHOLE}},
        scorers={"task": Accuracy()},
        with_derived=lambda values: dict(values),
    )
    for name in ("value", "values"):
        setattr(suite, name, getattr(Suite, name).__get__(suite))

    def results(candidate: int) -> Any:
        label = history.candidates[candidate].origin
        bits = rights[label] * len(items)
        metrics = {"acc": [float(bit) for bit in bits[: len(items)]]}
        metrics |= {name: found[label][: len(items)] for name, found in signals.items()}
        return {"task": {"items": list(items), "responses": [], "metrics": metrics, "tokens": 0}}

    race = Race.of(suite, {}, [results(0)])
    return judge(history, suite, race, {"task": list(items)}, results)


MODELS = {
    "base": "1000",
    "chat": "1100",
    "uniform": "1000",
    "good": "1110",
    "near": "1011",
    "bad": "1000",
}


def test_who_is_clearly_beaten_is_dropped_but_no_reference_or_baseline() -> None:
    verdict = judged(MODELS)
    assert [(d.candidate, d.leader, d.items) for d in verdict.dropped] == [(5, 3, 100)]
    assert verdict.dropped[0].e_value >= 4 / 0.05, "four merges"
    assert not verdict.last and verdict.saved == 100, "one merge, the other half of the items"


def test_a_race_ends_when_one_merge_is_left_or_no_item() -> None:
    won = judged({**MODELS, "near": "0100"})
    assert won.last and {d.candidate for d in won.dropped} == {4, 5}
    assert won.saved == 6 * 100, "nobody is asked the other half"
    alone = judged(MODELS, WHOLE)
    assert alone == Verdict(2, True, unraced="it has no more sources than strata")


def test_who_failed_is_out_and_judges_nobody() -> None:
    verdict = judged({**MODELS, "good": ""})
    assert 3 not in verdict.invalid and all(d.leader == 4 for d in verdict.dropped)


def test_a_merge_that_gains_by_a_cap_on_its_parent_is_invalid_and_leads_nobody() -> None:
    """chat's wrong answers were cut at the length cap, the merge's were not."""
    cut = [0.0, 0.0, 1.0, 1.0] * 50
    truncated = {label: cut if label == "chat" else [0.0] * 200 for label in MODELS}
    verdict = judged(MODELS, truncated=truncated)
    assert 3 in verdict.invalid and "length cap" in " ".join(verdict.invalid[3])
    assert all(d.leader != 3 for d in verdict.dropped)


def test_the_winner_is_the_best_of_those_whose_floors_are_confirmed() -> None:
    """Then of those that likely hold them; who likely misses one wins only where all do."""
    history = history_of({**MODELS, "good": "1111", "near": "1110", "bad": "1100"})
    uniform, good, near, bad = 2, 3, 4, 5

    def winner(confidence: float = 0.9, **chances: float) -> int | None:
        ids = {"uniform": uniform, "good": good, "near": near, "bad": bad}
        floors = {ids[label]: chance for label, chance in chances.items()}
        history.verdicts[:] = [Verdict(2, True, floors=floors, confidence=confidence)]
        return history.winner

    assert winner() == good, "no floors"
    assert winner(uniform=0.99, good=0.85, near=0.95, bad=0.99) == near
    assert winner(0.8, uniform=0.99, good=0.85, near=0.95, bad=0.99) == good
    assert winner(uniform=0.2, good=0.4, near=0.55, bad=0.85) == near
    assert winner(uniform=0.2, good=0.1, near=0.1, bad=0.1) == good
    floors = {uniform: 0.3, good: 0.1, near: 0.99, bad: 0.6}
    history.verdicts[:] = [Verdict(2, True, (), {near: ["answers were cut"]}, floors=floors)]
    assert history.winner == bad
