"""What every merge method must hold to, as tests: subclass and name the method.

class TestMine(MethodContract):
    method = "mine"        # as in a recipe; a plugin's entry point counts

A law that a method does not obey is named in its declaration, with the reason: ``exempt={"order": ...}``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge import methods
from evomerge.methods import Inputs, Method, merge_tensors
from evomerge.methods.kernel import passes, tiled
from evomerge.tensors import Place

SHAPES = [(), (0,), (1,), (7,), (1, 1), (3, 5), (5, 3), (0, 4), (4, 0), (2, 3, 4), (2, 3, 1, 2)]
LARGE = (130, 260)  # shape of a tensor that passes are compiled for
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ROLES = ["attn", "mlp", "norm", "embed", "head", "other"]

LAWS = ("finite", "upcast", "base", "order")  # that a method may be exempt from

laws = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    # one function is the law of every subclass
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)


def normal(seed: int, count: int, shape: Sequence[int], step: float | None = None) -> list[Tensor]:
    """Normal numbers, rounded to multiples of ``step`` if given: ``count`` tensors [*shape]."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(tuple(shape), generator=generator) for _ in range(count)]
    return found if step is None else [(tensor / step).round() * step for tensor in found]


def tensors(draw: Any, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Tensors of several sizes, with repeated magnitudes, zeros and zero columns among them."""
    coarse = draw(st.booleans())
    scale = st.sampled_from([0.0, 1e-6, 0.02, 1.0, 100.0])
    return [
        (tensor * draw(scale)).to(dtype)
        for tensor in normal(draw(st.integers(0, 2**32)), count, shape, 0.5 if coarse else None)
    ]


def factors(seed: int, shape: Sequence[int], rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Random factors of a delta of ``shape``, as an adapter of ``rank`` has them."""
    rows, columns = shape
    (left,), (right,) = normal(seed, 1, (rows, rank)), normal(seed + 100, 1, (rank, columns))
    return left * scale, right


@st.composite
def merges(draw: Any, method: Method, dtypes: Sequence[torch.dtype] = DTYPES) -> dict[str, Any]:
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
    known = {
        statistic: dict(
            zip(
                names,
                [abs(t.float()) for t in tensors(draw, len(names), shape, dtype)],
                strict=True,
            )
        )
        for statistic in method.statistics
    }
    models = dict(zip(names, sources, strict=True))
    held = None
    if method.of_adapters and len(shape) == 2 and draw(st.booleans()):
        scale = draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0]))
        ranks = [draw(st.integers(0, 4)) for _ in names]
        held = {
            m: factors(n, shape, r, scale)
            for n, (m, r) in enumerate(zip(names, ranks, strict=True))
        }
        models = {m: (base.float() + b @ a).to(dtype) for m, (b, a) in held.items()}
    return {
        "method": method,
        "models": models,
        "factors": held,
        "stats": known,
        "base": None if method.base == "none" else base,
        "parameters": parameters,
        "seed": draw(st.integers(0, 99)),
        "name": "w",
        "role": draw(st.sampled_from(ROLES)),
    }


class MethodContract:
    """Laws of merge methods, whatever their parameters."""

    method: ClassVar[str]

    @pytest.fixture(scope="class")
    def subject(self) -> Method:
        """The method under test."""
        return methods.get(self.method)

    @pytest.fixture(autouse=True)
    def one_thread(self) -> Iterator[None]:
        """Torch on one core, as merges run."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    def test_it_says_what_it_is(self, subject: Method) -> None:
        assert subject.summary and "\n" not in subject.summary
        for parameter in subject.parameters:
            assert parameter.doc, parameter.name
            assert parameter.domain.problem(parameter.default) is None, parameter.name

    def test_exemptions_name_laws_and_reasons(self, subject: Method) -> None:
        for law, reason in subject.exempt.items():
            assert law in LAWS, f"no law {law!r} to be exempt from; there are {', '.join(LAWS)}"
            assert len(reason) > 10, law

    @given(data=st.data())
    @laws
    def test_finite_in_finite_out(self, subject: Method, data: st.DataObject) -> None:
        """And nothing else changes: neither the sources nor torch's own generator."""
        _obey("finite", subject)
        merge = data.draw(merges(subject))
        before = {name: tensor.clone() for name, tensor in merge["models"].items()}
        generator = torch.get_rng_state()
        out = merge_tensors(**merge)
        assert out.dtype == torch.float32
        assert out.shape == next(iter(before.values())).shape
        assert out.isfinite().all()
        assert torch.equal(out, merge_tensors(**merge)), "a second merge gives other bytes"
        assert torch.equal(torch.get_rng_state(), generator), "it draws from torch's generator"
        for name, tensor in merge["models"].items():
            assert torch.equal(tensor, before[name]), f"it writes into {name}"

    @given(data=st.data())
    @laws
    def test_a_broken_entry_does_not_vanish(self, subject: Method, data: st.DataObject) -> None:
        merge = data.draw(merges(subject))
        kind = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
        at = _break(merge, kind, data)
        if at is not None:
            assert merge_tensors(**merge).view(-1)[at].isnan()

    @given(data=st.data())
    @laws
    def test_a_kernel_keeps_nan_by_itself(self, subject: Method, data: st.DataObject) -> None:
        """evomerge puts back the NaN that a kernel of whole tensors loses, but not what it caused.

        A comparison with NaN is false, so ``where(abs(a) > abs(b), a, b)`` loses one in ``a``.
        """
        merge = data.draw(merges(subject))
        at = _break(merge, torch.nan, data)
        merged = subject.plain(inputs_of(merge)) if at is not None else None
        if merged is not None:
            assert merged.reshape(-1)[at].isnan(), f"{subject.name} makes a number of NaN"

    @given(data=st.data())
    @laws
    def test_inputs_are_upcast_before_anything_else(
        self, subject: Method, data: st.DataObject
    ) -> None:
        _obey("upcast", subject)
        merge = data.draw(merges(subject, [torch.bfloat16, torch.float16]))
        wide = dict(merge, models={name: t.float() for name, t in merge["models"].items()})
        if merge["base"] is not None:
            wide["base"] = merge["base"].float()
        assert torch.equal(merge_tensors(**merge), merge_tensors(**wide))

    @given(data=st.data())
    @laws
    def test_sources_equal_to_the_base_give_the_base(
        self, subject: Method, data: st.DataObject
    ) -> None:
        _obey("base", subject)
        if subject.base != "required":
            pytest.skip("it needs no base")
        merge = data.draw(merges(subject))
        merge["models"] = dict.fromkeys(merge["models"], merge["base"])
        if held := merge["factors"]:
            merge["factors"] = {m: (left * 0, right) for m, (left, right) in held.items()}
        torch.testing.assert_close(merge_tensors(**merge), merge["base"].float())

    @given(data=st.data())
    @laws
    def test_the_order_of_models_does_not_matter(
        self, subject: Method, data: st.DataObject
    ) -> None:
        _obey("order", subject)
        if subject.max_models == 1:
            pytest.skip("it takes one model")
        merge = data.draw(merges(subject))
        # multiples of 1/4, whose sums are exact: else rounding elects the sign of sums that vanish
        shape = merge["base"].shape if merge["base"] is not None else (3, 5)
        names = [*merge["models"]]
        base, *sources = normal(data.draw(st.integers(0, 99)), len(names) + 1, shape, 0.25)
        merge["models"] = dict(zip(names, sources, strict=True))
        merge["stats"] = {
            statistic: {name: source.abs() for name, source in merge["models"].items()}
            for statistic in subject.statistics
        }
        merge["base"] = None if subject.base == "none" else base
        if held := merge["factors"]:  # without ties, which the first would win
            ranks = {model: left.shape[1] for model, (left, _) in held.items()}
            merge["factors"] = {
                model: factors(n, shape, rank, 1.0) for n, (model, rank) in enumerate(ranks.items())
            }
        if "weight" in merge["parameters"]:
            merge["parameters"]["weight"] = {
                name: data.draw(st.sampled_from([0.25, 0.5, 1.0, 1.75])) for name in names
            }
        turned = {**merge, "models": dict(reversed(merge["models"].items()))}
        torch.testing.assert_close(merge_tensors(**merge), merge_tensors(**turned))

    def test_compiled_and_tiled_passes_agree(
        self, subject: Method, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a tensor that is large enough to be compiled for, to the last bit."""
        inputs = _large(subject)
        out = torch.empty(LARGE, dtype=torch.bfloat16)
        fast, _ = subject.run(inputs, out=out)
        monkeypatch.setattr(passes, "on", lambda device: tiled)
        plain, _ = subject.run(inputs, out=torch.empty_like(out))
        assert torch.equal(fast, plain), "numbers of an entry function are written with a point"

    def test_what_is_looked_at_is_what_is_cast(self, subject: Method) -> None:
        """Any entries, in any order, to the last bit."""
        inputs, shown = _large(subject, gene=0.5), list[Tensor]()
        at = torch.randperm(math.prod(LARGE), generator=torch.Generator().manual_seed(0))[:5000]
        out, _ = subject.run(
            inputs,
            out=torch.empty(LARGE, dtype=torch.bfloat16),
            look=lambda exact: shown.append(exact(at)),
        )
        [exact] = shown
        assert exact.dtype == torch.float32
        assert torch.equal(exact.bfloat16(), out.flatten()[at])
        assert torch.equal(exact, subject.apply(inputs).flatten()[at])


def _large(subject: Method, gene: float | None = None) -> Inputs:
    """A large tensor; parameters at ``gene`` of what is searched, or at their defaults."""
    base, *sources = (each * 0.02 for each in normal(0, (subject.max_models or 3) + 1, LARGE))
    names = [f"m{i}" for i in range(len(sources))]
    parameters = {p.name: p.domain.decode(gene) for p in subject.parameters if gene is not None}
    inputs = Inputs(
        models={
            name: (base + source / 10).bfloat16()
            for name, source in zip(names, sources, strict=True)
        },
        values=subject.check(parameters, names),
        base=None if subject.base == "none" else base.bfloat16(),
        name="w",
        stats={
            statistic: {name: source.abs() for name, source in zip(names, sources, strict=True)}
            for statistic in subject.statistics
        },
    )
    return replace(inputs, totals=methods.survey(subject, [inputs]))


def inputs_of(merge: dict[str, Any]) -> Inputs:
    """The same merge, for ``Method.run``."""
    method: Method = merge["method"]
    inputs = Inputs(
        models=merge["models"],
        values=method.check(merge["parameters"], tuple(merge["models"])),
        base=merge["base"],
        seed=merge["seed"],
        name=merge["name"],
        stats=merge["stats"],
        place=Place(None, merge["role"]),
    )
    return replace(inputs, totals=methods.survey(method, [inputs]))


def _obey(law: str, method: Method) -> None:
    if law in method.exempt:
        pytest.skip(method.exempt[law])


def _break(merge: dict[str, Any], value: float, data: st.DataObject) -> int | None:
    """Put ``value`` into one entry of one source; its flat index, None if there are no entries."""
    model = data.draw(st.sampled_from([*merge["models"]]))
    broken = merge["models"][model].clone()
    if not broken.numel():
        return None
    at = data.draw(st.integers(0, broken.numel() - 1))
    broken.view(-1)[at] = value
    merge["models"][model] = broken
    return at
