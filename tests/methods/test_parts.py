from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.methods import merge_tensors
from evomerge.methods.kernel.tensorwise import largest, trim


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


def merged_delta(method: str, deltas: list[list[float]], **parameters: object) -> list[float]:
    models = {f"m{i}": torch.tensor(delta) for i, delta in enumerate(deltas)}
    base = torch.zeros(len(deltas[0]))
    return merge_tensors(method, models, base=base, parameters=parameters).tolist()


def test_a_sum_of_zero_elects_the_positive_deltas() -> None:
    assert merged_delta("ties", [[1.0, -2.0], [-1.0, 2.0]], density=1) == [1.0, 2.0]


def test_normalisation_counts_only_those_that_take_part() -> None:
    deltas, weight = [[4.0], [-1.0], [0.0], [2.0]], [1.0, 1.0, 5.0, 3.0]
    assert merged_delta("ties", deltas, density=1, weight=weight) == [(4 + 6) / (1 + 3)]


def test_weights_of_both_signs_do_not_explode_unless_asked_to() -> None:
    deltas, weight = [[1.0], [-1.0]], [1.0, -0.999]
    assert abs(merged_delta("ties", deltas, density=1, weight=weight)[0]) <= 1
    assert merged_delta("ties", deltas, density=1, weight=weight, normalize="signed")[0] > 1000


def test_norms_of_tiny_tensors_are_restored() -> None:
    merged = merged_delta("ties", [[3e-12, 1e-12]], density=0.5, rescale=True, normalize=False)
    assert merged == pytest.approx([4e-12, 0.0], rel=1e-5)
