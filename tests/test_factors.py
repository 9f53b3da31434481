"""Matrices of low rank: sums, and the nearest of a rank."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evomerge.factors import EXACT, Factors, compressed, concatenated, nearest


def random(rows: int, columns: int, rank: int, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(rows, rank, generator=generator),
        torch.randn(rank, columns, generator=generator),
    )


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).square().sum())


def test_a_sum_side_by_side_is_exact_and_its_ranks_add_up() -> None:
    parts = [random(7, 5, 2, 1), random(7, 5, 3, 2), Factors.none(7, 5)]
    row, column = torch.linspace(-1, 1, 7)[:, None], torch.linspace(0, 2, 5)[None]
    whole = concatenated([parts[0].scaled(row), parts[1].scaled(column), parts[2].scaled(3.0)])
    assert (whole.rank, whole.shape) == (5, (7, 5))
    torch.testing.assert_close(whole.product, parts[0].product * row + parts[1].product * column)


@pytest.mark.parametrize("scale", [0.25, -2.0, 0.0])
def test_a_scale_is_shared_by_both_factors(scale: float) -> None:
    plain = random(6, 4, 3)
    scaled = plain.balanced(scale)
    torch.testing.assert_close(scaled.product, plain.product * scale)
    torch.testing.assert_close(scaled.right, plain.right * abs(scale) ** 0.5)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
@pytest.mark.parametrize("rank", [1, 3, 5, 20])
def test_the_nearest_of_a_rank_is_what_singular_values_say(
    shape: tuple[int, int], rank: int
) -> None:
    factors = concatenated([random(*shape, 2, seed) for seed in range(2)])
    matrix, tail = factors.product, torch.linalg.svdvals(factors.product.double())[rank:]
    for found, lost in (compressed(factors, rank), nearest(matrix, rank, "w")):
        assert found.rank <= rank
        assert lost == pytest.approx(float(tail.square().sum()), rel=1e-6, abs=1e-9)
        assert distance(found.product, matrix) == pytest.approx(lost, rel=1e-6, abs=1e-9)


def test_of_a_large_matrix_the_found_comes_close_to_the_nearest() -> None:
    """And what it says it lacks is true; others keyed by other names differ, the same name never does."""
    side = EXACT + 40
    generator = torch.Generator().manual_seed(0)
    strong = random(side, side, 30, 1)
    matrix = strong.product + 0.3 * torch.randn(side, side, generator=generator)
    found, lost = nearest(matrix, 8, "w")
    best = float(torch.linalg.svdvals(matrix)[8:].double().square().sum())
    assert best <= lost * (1 + 1e-6) <= best * 1.001
    assert distance(found.product, matrix) == pytest.approx(lost, rel=1e-6)
    assert torch.equal(nearest(matrix, 8, "w")[0].left, found.left)
    assert not torch.equal(nearest(matrix, 8, "v")[0].left, found.left)


def test_a_matrix_of_zeros_has_factors_of_zeros() -> None:
    found, lost = nearest(torch.zeros(5, 4), 2, "w")
    assert lost == 0 and not found.product.any()
    found, lost = compressed(Factors.none(5, 4), 2)
    assert lost == 0 and found.rank == 0
