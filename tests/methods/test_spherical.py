"""The closed forms against the published procedures, written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import InputError
from evomerge.methods import merge_tensors

laws = settings(max_examples=30, deadline=None, derandomize=True)


def sources(seed: int, count: int, shape: tuple[int, ...], scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"m{i}": scale * torch.randn(shape, generator=generator) for i in range(count)}


def tangent_mean(models: dict[str, Tensor], weight: list[float]) -> Tensor:
    """multislerp as published: a weighted mean in the tangent plane, mapped back to the sphere."""
    vectors = torch.stack([tensor.double().flatten() for tensor in models.values()])
    shares, norms = torch.tensor(weight, dtype=torch.float64), vectors.norm(dim=1)
    units = vectors / norms[:, None]
    mean = shares @ units
    mean = mean / mean.norm()
    tangent = shares @ (units - (units @ mean)[:, None] * mean)
    length = tangent.norm() + 1e-12
    point = mean * length.cos() + tangent * length.sin() / length
    merged: Tensor = point * (shares @ norms)
    return merged.reshape(next(iter(models.values())).shape)


@given(st.integers(0, 999), st.integers(2, 5), st.sampled_from([(7,), (5, 4), (2, 3, 4)]))
@laws
def test_multislerp_is_the_tangent_mean(seed: int, count: int, shape: tuple[int, ...]) -> None:
    models = sources(seed, count, shape)
    weight = [0.1 + 0.3 * i for i in range(count)]
    merged = merge_tensors(
        "multislerp", models, parameters={"weight": weight, "normalize_weights": False}
    )
    torch.testing.assert_close(merged.double(), tangent_mean(models, weight), rtol=1e-4, atol=1e-5)


def test_multislerp_where_three_directions_cancel() -> None:
    corner = [
        torch.tensor([math.cos(a), math.sin(a)]) for a in (0, 2 * math.pi / 3, -2 * math.pi / 3)
    ]
    models = {f"m{i}": (i + 1) * vector for i, vector in enumerate(corner)}
    average = sum(models.values()) / 3
    torch.testing.assert_close(merge_tensors("multislerp", models), average)


def test_multislerp_refuses_weights_without_an_average() -> None:
    with pytest.raises(InputError, match="sum to 0"):
        merge_tensors("multislerp", sources(0, 2, (3,)), parameters={"weight": [1, -1]})


@given(st.integers(0, 999), st.integers(1, 5), st.sampled_from([1e-12, 1.0, 1e6]))
@laws
def test_karcher_finds_the_centre(seed: int, count: int, scale: float) -> None:
    """The models' directions pull equally in all directions, whatever the unit of the weights."""
    models = sources(seed, count, (4, 10), scale)
    merged = merge_tensors("karcher", models, parameters={"max_iter": 100, "tol": 1e-7}).double()
    norms = torch.stack([tensor.double().norm() for tensor in models.values()])
    torch.testing.assert_close(merged.norm(), norms.mean())
    centre, pull = merged / merged.norm(), torch.zeros_like(merged)
    for tensor in models.values():
        unit = tensor.double() / tensor.double().norm()
        angle = (unit * centre).sum().clamp(-1, 1).acos()
        pull += (unit - angle.cos() * centre) / torch.sinc(angle / math.pi)
    assert pull.norm() < 1e-5


def test_karcher_of_opposite_models_stays_with_the_first() -> None:
    models = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([-3.0, 0.0])}
    assert merge_tensors("karcher", models).tolist() == [2.0, 0.0]


@given(st.integers(0, 999), st.floats(0, 1), st.sampled_from([1e-12, 1e-4, 1.0]))
@laws
def test_nuslerp_turns_at_constant_speed(seed: int, share: float, scale: float) -> None:
    """From equal lengths the arc keeps the length, and the angle grows with the weight."""
    start, end = (tensor / tensor.norm() * scale for tensor in sources(seed, 2, (30,)).values())
    weight = [1 - share, share]
    merged = merge_tensors("nuslerp", {"a": start, "b": end}, parameters={"weight": weight})
    torch.testing.assert_close(float(merged.norm() / scale), 1.0, rtol=1e-5, atol=0)

    def angle(x: Tensor, y: Tensor) -> float:
        return float((x.double() * y.double()).sum().div(scale**2).clamp(-1, 1).acos())

    assert angle(start, merged) == pytest.approx(share * angle(start, end), abs=1e-3)


@pytest.mark.parametrize("row_wise", [False, True])
def test_nuslerp_by_vectors_is_nuslerp_of_each_vector(row_wise: bool) -> None:
    models, base = sources(3, 2, (4, 5)), torch.ones(4, 5)
    parameters = {"weight": [1, 2], "nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
    merged = merge_tensors("nuslerp", models, base=base, parameters=parameters)
    dim = 1 if row_wise else 0  # the axis that counts the vectors
    for index in range(merged.shape[dim]):
        one = {name: tensor.select(dim, index) for name, tensor in models.items()}
        alone = merge_tensors(
            "nuslerp", one, base=base.select(dim, index), parameters={"weight": [1, 2]}
        )
        torch.testing.assert_close(merged.select(dim, index), alone)


def test_nuslerp_of_nearly_opposite_models() -> None:
    start = sources(0, 1, (30, 20))["m0"]
    models = {"a": start, "b": -1.7 * start + 1e-5 * sources(1, 1, (30, 20))["m0"]}
    merged = merge_tensors("nuslerp", models)
    torch.testing.assert_close(merged, (models["a"] + models["b"]) / 2)
    as_mergekit = merge_tensors("nuslerp", models, parameters={"tolerance": 1e-16})
    assert as_mergekit.abs().max() > 1e4
