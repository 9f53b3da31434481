"""Packed weights multiply as the module does, follow whoever writes into it, and leave it alone."""

from __future__ import annotations

import pytest
import torch

from evomerge.engines.huggingface.packing import PackedWeights

DTYPES = [torch.float32, torch.bfloat16]


def model_of(dtype: torch.dtype) -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(96, 50), torch.nn.SiLU(), torch.nn.Linear(50, 7, bias=False)
        return torch.nn.Sequential(*layers).to(dtype).requires_grad_(False)


def inputs(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(-1, 1, 96 * torch.Size(shape).numel()).view(*shape, 96).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_the_same(dtype: torch.dtype) -> None:
    model = model_of(dtype)
    packed = PackedWeights(model)
    for shape in ((1,), (10,), (3, 1), (2, 40), (1, 5, 1)):
        given = inputs(*shape, dtype=dtype)
        expected = model(given)
        with packed.used():
            found = model(given)
        assert found.shape == expected.shape and found.dtype == dtype
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_change_are_packed_again(dtype: torch.dtype) -> None:
    model, given = model_of(dtype), inputs(4, dtype=dtype)
    packed = PackedWeights(model)
    with packed.used():
        before = model(given)
    model[0].weight.mul_(2)  # seen
    with packed.used():
        changed = model(given)
    torch.testing.assert_close(changed, model(given))
    assert not torch.equal(changed, before)
    model[0].weight.data.mul_(0.5)  # behind torch's back, as merges are written
    packed.forget()
    with packed.used():
        assert torch.equal(model(given), before)
    model[2].weight = torch.nn.Parameter(torch.zeros_like(model[2].weight), requires_grad=False)
    with packed.used():
        assert not model(given).any()


def test_the_module_is_left_as_it_was() -> None:
    model = model_of(torch.float32)
    packed = PackedWeights(model)
    with pytest.raises(ZeroDivisionError), packed.used():
        assert "forward" in vars(model[0])
        raise ZeroDivisionError
    assert "forward" not in vars(model[0])
    model.requires_grad_(True)
    model(inputs(2, dtype=torch.float32)).sum().backward()
    assert model[0].weight.grad is not None


def test_no_copies_where_there_is_no_room_for_them() -> None:
    model = model_of(torch.float32)
    size = 4 * (96 * 50 + 50 * 7)
    for memory, packs in ((size, True), (size - 1, False), (0, False), (None, True)):
        with PackedWeights(model, memory).used():
            assert ("forward" in vars(model[0])) == packs


def test_other_dtypes_are_left_alone() -> None:
    model = model_of(torch.float64)
    with PackedWeights(model).used():
        assert "forward" not in vars(model[0])
