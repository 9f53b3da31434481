from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.methods import FactStore
from evomerge.methods.kernel.order_statistics import select
from evomerge.methods.kernel.tiled import histogram


def test_the_least_recently_used_goes_first() -> None:
    store, made = FactStore(limit=3 * 40), []

    def fact(name: str) -> torch.Tensor:
        def compute() -> torch.Tensor:
            made.append(name)
            return torch.zeros(10)

        return store.get(name, compute)

    for name in ("a", "b", "c", "a", "d", "a", "b"):
        fact(name)
    assert made == ["a", "b", "c", "d", "b"] and store.dropped == 2
    assert store.used <= store.limit


def test_what_does_not_fit_at_all_is_not_kept() -> None:
    store = FactStore(limit=100)
    store.get("small", lambda: torch.zeros(5))
    store.get("big", lambda: torch.zeros(1000))
    assert store.used == 20 and store.dropped == 1


@given(
    values=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=60),
    data=st.data(),
)
def test_two_histograms_find_any_rank(values: list[float], data: st.DataObject) -> None:
    tensor = torch.tensor([values])
    base = torch.zeros_like(tensor)
    count = data.draw(st.integers(1, len(values)))
    value, above = select(lambda bucket: histogram(tensor, base, bucket), count)
    ordered = sorted((abs(v) for v in tensor[0].tolist()), reverse=True)
    assert value == ordered[count - 1]
    assert above == sum(v > value for v in ordered)
