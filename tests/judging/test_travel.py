"""What genes brought a descent adds up to what it gained."""

from __future__ import annotations

import pytest

from evomerge.judging.travel import Stop, along


def stop(x: float, y: float, descent: str = "one") -> Stop:
    """On the hill ``2 x - x^2 + 3 y``."""
    return Stop(descent, (x, y), (2 - 2 * x, 3.0))


def height(x: float, y: float) -> float:
    return 2 * x - x * x + 3 * y


def test_it_is_exact_on_a_parabola() -> None:
    found = along([stop(0, 0), stop(0.5, 0.1), stop(0.9, 0.15), stop(1, 0.2)])
    assert found is not None and found.steps == 3
    gained = sum(each.value for each in found.genes)
    assert gained == pytest.approx(height(1, 0.2) - height(0, 0))
    assert found.genes[1].value == pytest.approx(0.6)
    assert all(each.low < each.value < each.high for each in found.genes)


def test_a_jump_to_another_descent_is_no_step() -> None:
    walked = [stop(0, 0), stop(0.5, 0), stop(0.6, 0), stop(0, 1, "two"), stop(0.1, 1, "two")]
    found = along(walked)
    assert found is not None and found.steps == 3
    assert found.genes[1].value == 0


def test_one_step_is_too_few() -> None:
    assert along([stop(0, 0), stop(1, 1)]) is None
    assert along([]) is None
