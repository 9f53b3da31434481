"""Laws that every registered method obeys, whatever its parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge import methods
from evomerge.methods import Method, merge_tensors

ALL = [methods.get(name) for name in methods.names()]
WITH_BASE = [method for method in ALL if method.base == "required"]

SHAPES = [(), (0,), (1,), (7,), (1, 1), (3, 5), (5, 3), (0, 4), (4, 0), (2, 3, 4), (2, 3, 1, 2)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ROLES = ["attn", "mlp", "norm", "embed", "head", "other"]

LAWS = ("finite", "broken_entry", "upcast", "base", "equal_sources", "order")

laws = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def by_name(method: Method) -> str:
    return method.name


def obeying(law: str, among: list[Method] = ALL) -> pytest.MarkDecorator:
    """The methods that do not opt out of a law, with a reason, in their own file."""
    assert law in LAWS
    return pytest.mark.parametrize("method", [m for m in among if law not in m.exempt], ids=by_name)


def test_exemptions_name_laws_and_reasons() -> None:
    for method in ALL:
        for law, reason in method.exempt.items():
            assert law in LAWS and len(reason) > 10, method.name


def tensors(draw: Any, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Tensors of several sizes, with repeated magnitudes, zeros and zero columns among them."""
    coarse = draw(st.booleans())
    scale = st.sampled_from([0.0, 1e-6, 0.02, 1.0, 100.0])
    return [
        (tensor * draw(scale)).to(dtype)
        for tensor in normal(draw(st.integers(0, 2**32)), count, shape, 0.5 if coarse else None)
    ]


def normal(seed: int, count: int, shape: tuple[int, ...], step: float | None) -> list[Tensor]:
    """Normal numbers, rounded to multiples of ``step`` if given."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=generator) for _ in range(count)]
    return found if step is None else [(tensor / step).round() * step for tensor in found]


@st.composite
def merges(draw: Any, method: Method, dtypes: list[torch.dtype] = DTYPES) -> dict[str, Any]:
    """Arguments of ``merge_tensors`` within the searched ranges."""
    most = 4 if method.max_models is None else method.max_models
    names = [f"m{i}" for i in range(draw(st.integers(method.min_models, most)))]
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(dtypes))
    base, *sources = tensors(draw, len(names) + 1, shape, dtype)
    gene = st.floats(0, 1)
    parameters: dict[str, Any] = {}
    for parameter in method.parameters:
        decode = parameter.domain.decode
        if parameter.per_model:
            # above 0: that weights which sum to 0 have no average is no matter of chance
            parameters[parameter.name] = {m: decode(draw(st.floats(0.01, 1))) for m in names}
        else:
            parameters[parameter.name] = decode(draw(gene))
    return {
        "method": method,
        "models": dict(zip(names, sources, strict=True)),
        "base": None if method.base == "none" else base,
        "parameters": parameters,
        "seed": draw(st.integers(0, 99)),
        "name": "w",
        "role": draw(st.sampled_from(ROLES)),
    }


@obeying("finite")
@given(data=st.data())
@laws
def test_finite_in_finite_out(method: Method, data: st.DataObject) -> None:
    merge = data.draw(merges(method))
    before = {name: tensor.clone() for name, tensor in merge["models"].items()}
    out = merge_tensors(**merge)
    assert out.dtype == torch.float32
    assert out.shape == next(iter(before.values())).shape
    assert out.isfinite().all()
    assert torch.equal(out, merge_tensors(**merge))
    assert all(torch.equal(tensor, before[name]) for name, tensor in merge["models"].items())


@obeying("broken_entry")
@given(data=st.data())
@laws
def test_a_broken_entry_does_not_vanish(method: Method, data: st.DataObject) -> None:
    merge = data.draw(merges(method))
    model = data.draw(st.sampled_from([*merge["models"]]))
    broken = merge["models"][model].clone()
    if broken.numel():
        index = data.draw(st.integers(0, broken.numel() - 1))
        broken.view(-1)[index] = data.draw(st.sampled_from([float("nan"), float("inf")]))
        merge["models"][model] = broken
        assert not merge_tensors(**merge).view(-1)[index].isfinite()


@obeying("upcast")
@given(data=st.data())
@laws
def test_inputs_are_upcast_before_anything_else(method: Method, data: st.DataObject) -> None:
    merge = data.draw(merges(method, [torch.bfloat16, torch.float16]))
    wide = dict(merge, models={name: t.float() for name, t in merge["models"].items()})
    if merge["base"] is not None:
        wide["base"] = merge["base"].float()
    assert torch.equal(merge_tensors(**merge), merge_tensors(**wide))


@obeying("base", WITH_BASE)
@given(data=st.data())
@laws
def test_sources_equal_to_the_base_give_the_base(method: Method, data: st.DataObject) -> None:
    merge = data.draw(merges(method))
    merge["models"] = dict.fromkeys(merge["models"], merge["base"])
    torch.testing.assert_close(merge_tensors(**merge), merge["base"].float())


@pytest.mark.parametrize("name", ["linear", "passthrough"])
@given(data=st.data())
@laws
def test_equal_sources_merge_to_themselves(name: str, data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get(name)))
    merge["parameters"].pop("scale", None)
    merge["parameters"]["normalize"] = True
    if name == "passthrough":
        del merge["parameters"]["normalize"]
    source = next(iter(merge["models"].values()))
    merge["models"] = dict.fromkeys(merge["models"], source)
    torch.testing.assert_close(merge_tensors(**merge), source.float())


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
@given(data=st.data())
@laws
def test_zero_weights_give_the_base(name: str, data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get(name)))
    merge["parameters"]["weight"] = 0
    assert torch.equal(merge_tensors(**merge), merge["base"].float())


@obeying("order", [method for method in ALL if method.max_models != 1])
@given(data=st.data())
@laws
def test_the_order_of_models_does_not_matter(method: Method, data: st.DataObject) -> None:
    merge = data.draw(merges(method))
    # multiples of 1/4, whose sums are exact: else rounding elects the sign of sums that vanish
    shape, names = merge["base"].shape if merge["base"] is not None else (3, 5), [*merge["models"]]
    base, *sources = normal(data.draw(st.integers(0, 99)), len(names) + 1, shape, 0.25)
    merge["models"] = dict(zip(names, sources, strict=True))
    merge["base"] = None if method.base == "none" else base
    if "weight" in merge["parameters"]:
        merge["parameters"]["weight"] = {
            name: data.draw(st.sampled_from([0.25, 0.5, 1.0, 1.75])) for name in names
        }
    turned = {**merge, "models": dict(reversed(merge["models"].items()))}
    torch.testing.assert_close(merge_tensors(**merge), merge_tensors(**turned))


@given(data=st.data())
@laws
def test_density_1_is_no_trim_and_no_drop(data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get("task_arithmetic")))
    plain = merge_tensors(**merge)
    full = {**merge["parameters"], "density": 1}
    rescale = data.draw(st.sampled_from([True, False, "density"]))
    dropped = {**merge, "method": "dare_linear", "parameters": {**full, "rescale": rescale}}
    assert torch.equal(merge_tensors(**dropped), plain)
    elected = merge_tensors(**{**merge, "method": "ties", "parameters": full})
    drawn = {**merge, "method": "dare_ties", "parameters": {**full, "rescale": rescale}}
    assert torch.equal(merge_tensors(**drawn), elected)


@given(data=st.data())
@laws
def test_density_0_keeps_nothing(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["ties", "dare_linear", "dare_ties"]))
    merge = data.draw(merges(methods.get(name)))
    merge["parameters"]["density"] = 0
    assert torch.equal(merge_tensors(**merge), merge["base"].float())


@given(data=st.data())
@laws
def test_ends_of_the_arc(data: st.DataObject) -> None:
    merge = data.draw(merges(methods.get("slerp")))
    for t, end in ((0, merge["base"]), (1, merge["models"]["m0"])):
        merge["parameters"]["t"] = t
        torch.testing.assert_close(merge_tensors(**merge), end.float())
