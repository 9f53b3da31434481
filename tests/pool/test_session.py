"""A Ray of our own on a machine where it starts slowly, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.pool.ray.session import Session

ray = pytest.importorskip("ray")
SLOW = (
    "The current node timed out during startup. This could happen because some of the raylet failed"
)


@pytest.mark.parametrize("times", [1, 2])
def test_a_ray_that_was_too_slow_is_started_once_more(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, calls = ray.init, []

    def init(**options: Any) -> Any:
        calls.append(options)
        if len(calls) <= times:
            raise Exception(SLOW)  # as Ray does
        return start(**options)

    monkeypatch.setattr(ray, "init", init)
    if times > 1:
        with pytest.raises(RunError, match="Ray does not start on this machine: The current node"):
            Session("local", 1)
        assert not ray.is_initialized()
        return
    session = Session("local", 1)
    assert session.present and len(calls) == 2
    session.close()


def test_what_else_ray_says_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> Any:
        raise Exception("no room")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RunError, match="Ray does not start on this machine: no room"):
        Session("local", 1)
