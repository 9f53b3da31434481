from __future__ import annotations

from typing import Any

import pytest

from evomerge.suite.probe import find_collapse, probe_limits


def answers(**metrics: Any) -> Any:
    return {"chat_en": {"items": ["a", "b"], "responses": [], "metrics": metrics, "tokens": 0}}


REFERENCES = [answers(target_nats=[2.0, 2.2]), answers(target_nats=[1.0, None])]


@pytest.mark.parametrize(
    ("nats", "collapsed"), [([4.0, 4.2], False), ([4.2, 4.2], True), ([None, 9.31], True)]
)
def test_nats_far_above_the_worst_reference_are_a_collapse(nats: Any, collapsed: bool) -> None:
    """The worst reference needs 2.1 nats a token: 1.5 times that and 1 more are allowed."""
    found = find_collapse(answers(target_nats=nats), probe_limits(REFERENCES))
    assert bool(found) is collapsed
    if nats[0] is None:
        assert found == (
            "collapsed on the probe: chat_en 9.31 nats a token, the worst of base and parents 2.10"
        )


def test_nothing_but_repetition_is_a_collapse_unless_a_parent_does_it() -> None:
    quiet = probe_limits([answers(repetitive=[0.0, 1.0]), answers(repetitive=[0.0, 0.0])])
    assert find_collapse(answers(repetitive=[1.0, 0.0]), quiet) is None
    assert "repeats itself" in (find_collapse(answers(repetitive=[1.0, 1.0]), quiet) or "")
    loud = probe_limits([answers(repetitive=[1.0, 1.0]), answers(repetitive=[0.0, 0.0])])
    assert find_collapse(answers(repetitive=[1.0, 1.0]), loud) is None


def test_a_task_without_signals_stops_nobody() -> None:
    limits = probe_limits([answers(acc=[1.0, 0.0])])
    assert find_collapse(answers(acc=[0.0, 0.0]), limits) is None
