from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.methods import merge_tensors


def normal(count: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return {f"m{i}": torch.randn(size, generator=generator) for i in range(count)}


def sparse(models: dict[str, Tensor], alone: str, **parameters: object) -> Tensor:
    """What is left of one model."""
    base = torch.zeros_like(models[alone])
    parameters["weight"] = {name: float(name == alone) for name in models}
    return merge_tensors("cabs", models, base=base, parameters=parameters)


@given(
    count=st.integers(1, 4),
    m=st.integers(1, 16),
    blocks=st.integers(0, 6),
    rest=st.integers(0, 15),
    density=st.integers(0, 20).map(lambda x: x / 20),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_models_share_no_entry_and_fill_their_blocks(
    count: int, m: int, blocks: int, rest: int, density: float
) -> None:
    models = normal(count, blocks * m + rest % m)
    kept = [sparse(models, name, m=m, density=density) != 0 for name in models]
    assert all(sum(each) <= 1 for each in zip(*(k.tolist() for k in kept), strict=True))
    n = round(density * m)
    for place, mask in enumerate(kept):
        free = max(0, m - place * n)
        assert (mask[: blocks * m].view(-1, m).sum(1) == min(n, free)).all()


def test_the_tail_is_a_block_of_its_own() -> None:
    models = normal(1, 10)
    kept = sparse(models, "m0", m=8, density=0.5)
    assert kept[8:].count_nonzero() == 1
    dropped = sparse(models, "m0", m=8, density=0.5, tail="dropped")
    assert torch.equal(dropped[:8], kept[:8]) and dropped[8:].count_nonzero() == 0


def test_order_decides_who_comes_first() -> None:
    models = normal(2, 64)
    alone = sparse({"m1": models["m1"]}, "m1", m=8)
    assert torch.equal(sparse(models, "m1", m=8, order={"m0": 2, "m1": 1}), alone)
    assert not torch.equal(sparse(models, "m1", m=8), alone)


def test_ties_are_taken_in_flat_order() -> None:
    models = {"m0": torch.ones(8), "m1": torch.ones(8)}
    assert sparse(models, "m0", m=4, density=0.25).tolist() == [1, 0, 0, 0] * 2
    assert sparse(models, "m1", m=4, density=0.25).tolist() == [0, 1, 0, 0] * 2
