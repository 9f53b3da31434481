"""Health gates: gains that are artefacts are told from real ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evomerge.judging.health import asymmetries, notes
from evomerge.suite.objectives import Objective
from evomerge.suite.suite import Results

N = 200


def suite(metric: str = "exact_match") -> Any:
    """One task, of which health asks no more than this."""
    objective = Objective("right", "task", metric)
    return SimpleNamespace(
        measured=[objective],
        objectives=[objective],
        scorers={"task": None},
        values=lambda results: {"right": np.mean(results["task"]["metrics"][metric])},
    )


def answers(right: float, metric: str = "exact_match", **flags: np.ndarray) -> Results:
    """``right`` of the answers without a flag are right, spread evenly; none of the others."""
    ok = (np.arange(N) * 7919 % N < round(right * N)).astype(float)
    for flag in flags.values():
        ok[flag > 0] = 0.0
    metrics: dict[str, Any] = {metric: ok.tolist()}
    metrics.update({name: flag.tolist() for name, flag in flags.items()})
    items = [str(n) for n in range(N)]
    return {"task": {"items": items, "responses": [""] * N, "metrics": metrics, "tokens": 0}}


def first(share: float) -> np.ndarray:
    return (np.arange(N) < share * N).astype(float)


CUT = {"truncated": first(0.3)}
WHOLE = {"truncated": first(0.0)}


def test_a_cap_that_cuts_the_parents_answers_makes_a_gain_invalid() -> None:
    parents = {
        "base": answers(0.1, **WHOLE),
        "chat": answers(0.6, **CUT),
        "sea": answers(0.2, **WHOLE),
    }
    (message,) = asymmetries(suite(), answers(0.6, **WHOLE), parents)
    assert "30% of chat's answers are cut at the length cap, 0% of the merge's" in message
    assert "raise max_gen_toks of task" in message
    assert asymmetries(suite(), answers(0.6, **CUT), parents) == [], "both are cut"
    assert asymmetries(suite(), answers(0.3, **WHOLE), parents) == [], "no gain"


def test_a_real_gain_remains_one_beside_some_cut_answers() -> None:
    parents = {"base": answers(0.1, **WHOLE), "chat": answers(0.3, truncated=first(0.06))}
    assert asymmetries(suite(), answers(0.8, **WHOLE), parents) == []


def test_a_parent_that_cannot_do_the_task_was_not_hindered() -> None:
    parents = {"base": answers(0.0, **WHOLE), "chat": answers(0.02, **CUT)}
    assert asymmetries(suite(), answers(0.7, **WHOLE), parents) == []


def test_loops_are_not_blamed_on_the_cap() -> None:
    loops = {"truncated": first(0.3), "repetitive": first(0.3)}
    none = {"truncated": first(0), "repetitive": first(0)}
    parents = {"base": answers(0.1, **none), "chat": answers(0.6, **loops)}
    (message,) = asymmetries(suite(), answers(0.6, **none), parents)
    assert "endless loop" in message and "cap" not in message


def test_rates_that_chance_explains_are_alike() -> None:
    few = {"truncated": np.array([1.0] * 5 + [0.0] * (N - 5))}
    parents = {"base": answers(0.1, **WHOLE), "chat": answers(0.6, **few)}
    assert asymmetries(suite(), answers(0.62, **WHOLE), parents) == []


@pytest.mark.parametrize("signal", ["unextracted", "off_language", "repetitive"])
def test_the_other_troubles_are_told_too(signal: str) -> None:
    parents = {
        "base": answers(0, **{signal: first(1)}),
        "chat": answers(0.6, **{signal: first(0.3)}),
    }
    (message,) = asymmetries(suite(), answers(0.6, **{signal: first(0)}), parents)
    assert message.startswith("task: 30% of chat's answers are ")


def test_an_objective_that_asks_for_the_language_may_be_won_by_it() -> None:
    metric = "exact_match*in_language"
    flags = [{"off_language": first(share)} for share in (0.3, 0)]
    ours, theirs = (answers(0.6, **each) for each in flags[::-1])
    objective = suite(metric)
    objective.values = lambda results: {"right": 0.0}
    assert asymmetries(objective, ours, {"base": theirs, "chat": theirs}) == []


def test_what_is_unknown_of_an_answer_is_left_out() -> None:
    unknown: list[Any] = [None] * 60 + [0.0] * (N - 60)
    theirs = answers(0.6, truncated=first(0.3))
    theirs["task"]["metrics"]["truncated"] = unknown
    assert asymmetries(suite(), answers(0.6, **WHOLE), {"base": theirs, "chat": theirs}) == []


def test_a_merge_in_more_trouble_than_all_its_parents_is_noted() -> None:
    parents = {"base": answers(0.1, **CUT), "chat": answers(0.6, truncated=first(0.2))}
    (note,) = notes(suite(), answers(0.6, truncated=first(0.5)), parents)
    assert note == (
        "task: 50% of the answers are cut at the length cap; base, the worst of base and parents, has 30%"
    )
    assert notes(suite(), answers(0.6, truncated=first(0.25)), parents) == []
