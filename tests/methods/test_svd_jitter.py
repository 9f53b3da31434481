"""CycleQD's mutation as a method: singular values grow by drawn shares, directions stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge import seeds
from evomerge.methods import merge_tensors
from evomerge.methods.kernel.draws import draw_key, uniforms

SHAPE = (9, 14)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


BASE = normal(*SHAPE)
PARENTS = {f"m{i}": BASE + normal(*SHAPE, seed=i + 1) for i in range(2)}


def shaken(parents: dict[str, Tensor] = PARENTS, base: Tensor = BASE, **parameters: Any) -> Tensor:
    return merge_tensors("svd_jitter", parents, base=base, parameters=parameters)


def test_it_is_the_formula() -> None:
    weight, spread, draw = {"m0": 0.7, "m1": 1.2}, {"m0": 0.3, "m1": 0.1}, 17
    expected = BASE.double()
    for name, parent in PARENTS.items():
        delta = parent.double() - BASE.double()
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
        # of the seed and the name that one tensor alone has
        key = seeds.key(draw_key(0, "", name), "draw", draw) & (1 << 64) - 1
        drawn = uniforms(key, 0, len(values), torch.device("cpu")).double()
        moved = delta + spread[name] * left @ torch.diag(drawn * values) @ right
        expected = expected + weight[name] * moved
    found = shaken(weight=weight, spread=spread, draw=draw)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [SHAPE, (14,), (4, 3, 5)])
def test_without_spread_and_of_what_is_no_matrix_it_is_task_arithmetic(shape: Any) -> None:
    base = normal(*shape)
    parents = {f"m{i}": base + normal(*shape, seed=i + 1) for i in range(2)}
    weight = {"m0": 0.7, "m1": 1.2}
    plain = merge_tensors("task_arithmetic", parents, base=base, parameters={"weight": weight})
    still = shaken(parents, base, weight=weight, spread=0.0)
    assert torch.equal(still, plain)
    if len(shape) != 2:
        assert torch.equal(shaken(parents, base, weight=weight, spread=0.4), plain)


@given(spread=st.floats(0, 0.5), draw=st.integers(0, 1023))
def test_directions_stay_and_each_grows_by_no_more_than_the_spread(
    spread: float, draw: int
) -> None:
    one = {"m0": PARENTS["m0"]}
    delta, found = (
        x.double() - BASE.double() for x in (one["m0"], shaken(one, spread=spread, draw=draw))
    )
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    inside = left.mT @ found @ right.mT
    torch.testing.assert_close(inside, torch.diag(inside.diag()), rtol=0, atol=1e-6)
    torch.testing.assert_close(left @ inside @ right, found, rtol=0, atol=1e-6)
    growth = inside.diag() / values - 1
    assert (growth >= -1e-5).all()
    assert (growth <= spread + 1e-5).all()


def test_draws_are_independent_and_repeat() -> None:
    first, again, other = (shaken(draw=draw) for draw in (3, 3, 4))
    assert torch.equal(first, again)
    step, elsewhere = ((x - shaken(spread=0.0)).flatten() for x in (first, other))
    assert not torch.allclose(step, elsewhere, atol=1e-4)


def test_threads_make_no_difference() -> None:
    base = normal(96, 80)
    parents = {"m": base + normal(96, 80, seed=1)}
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(shaken(parents, base, spread=0.5))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
