from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.methods._parts import elect, largest, restore_norm, trim


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
)
def test_the_cut_keeps_an_exact_count_lowest_indices_first(
    values: list[int], density: float
) -> None:
    kept = largest(torch.tensor(values, dtype=torch.float32), density)
    count = max(1, int(density * len(values)))
    by_rule = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert kept.nonzero().flatten().tolist() == sorted(by_rule)


def test_counting_is_not_rounded_to_float32() -> None:
    # int(0.29 * 100) is 28; in float32 the product is 29.0
    delta = torch.arange(1.0, 101.0).reshape(1, 100)
    kept = trim(delta, torch.tensor([0.29], dtype=torch.float64))
    assert int((kept != 0).sum()) == 28


def test_a_sum_of_zero_elects_the_positive_deltas() -> None:
    merged = elect(torch.tensor([[1.0, -2.0], [-1.0, 2.0]]), torch.ones(2).double(), True)
    assert merged.tolist() == [1.0, 2.0]


def test_normalisation_counts_only_those_that_take_part() -> None:
    deltas = torch.tensor([[4.0], [-1.0], [0.0], [2.0]])
    weight = torch.tensor([1.0, 1.0, 5.0, 3.0], dtype=torch.float64)
    assert elect(deltas, weight, True).item() == (4 + 6) / (1 + 3)


def test_norms_that_are_gone_stay_gone() -> None:
    deltas = torch.tensor([[3.0, 1.0], [2.0, 2.0]])
    sparse = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    assert restore_norm(sparse, deltas).tolist() == [[4.0, 0.0], [0.0, 0.0]]


def test_norms_of_tiny_tensors_are_restored() -> None:
    deltas = torch.tensor([[3e-12, 1e-12]])
    restored = restore_norm(torch.tensor([[3e-12, 0.0]]), deltas)
    torch.testing.assert_close(restored, torch.tensor([[4e-12, 0.0]]), rtol=1e-5, atol=0)
