"""What spectral methods do beyond the golden numbers: missing directions, weights, threads."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evomerge.methods import FactStore, Inputs, Method, get, merge_states, merge_tensors
from evomerge.methods.kernel import tiled
from evomerge.methods.kernel.spectral import polar

SPECTRAL = ["iso_c", "iso_cts", "opcm", "tsvm"]


def matrices(count: int, rows: int, columns: int, rank: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows * columns + count)
    if rank is None:
        return [torch.randn(rows, columns, generator=generator) * 0.1 for _ in range(count)]
    return [
        torch.randn(rows, rank, generator=generator)
        @ torch.randn(rank, columns, generator=generator)
        * 0.1
        for _ in range(count)
    ]


def models(base: Tensor, deltas: list[Tensor]) -> dict[str, Tensor]:
    return {f"m{i}": base + delta for i, delta in enumerate(deltas)}


def spectrum(merged: Tensor, base: Tensor) -> Tensor:
    return torch.linalg.svdvals((merged - base).double())


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_low_rank_deltas_give_a_low_rank_merge(name: str, shape: tuple[int, int]) -> None:
    """LoRA parents: no direction that rounding alone suggests comes out strong."""
    (base,) = matrices(1, *shape)
    merged = merge_tensors(name, models(base, matrices(2, *shape, rank=3)), base=base)
    found = spectrum(merged, base)
    assert found[5] > 1e-3
    assert found[6] < 1e-5


def test_iso_full_strengthens_directions_that_are_not_there() -> None:
    (base,) = matrices(1, 24, 40)
    parents = models(base, matrices(2, 24, 40, rank=3))
    full = spectrum(merge_tensors("iso_c", parents, base=base, parameters={"rank": "full"}), base)
    torch.testing.assert_close(full, full.mean().expand(24), rtol=1e-4, atol=0)
    own = spectrum(merge_tensors("iso_c", parents, base=base), base)
    assert own[0] == pytest.approx(float(4 * full[0]), rel=1e-4)  # 6 directions, not 24


@pytest.mark.parametrize("name", SPECTRAL)
def test_full_and_numerical_rank_agree_on_full_matrices(name: str) -> None:
    (base,) = matrices(1, 12, 9)
    parents = models(base, matrices(3, 12, 9))
    whole = merge_tensors(name, parents, base=base, parameters={"rank": "full"})
    torch.testing.assert_close(merge_tensors(name, parents, base=base), whole, rtol=1e-5, atol=1e-6)


def test_iso_cts_with_everything_common_is_iso_c() -> None:
    (base,) = matrices(1, 12, 9)
    parents = models(base, matrices(2, 12, 9))
    common = merge_tensors("iso_cts", parents, base=base, parameters={"common_space_fraction": 1})
    torch.testing.assert_close(common, merge_tensors("iso_c", parents, base=base))


def test_tsvm_of_one_model_is_that_model() -> None:
    (base,) = matrices(1, 12, 9)
    parents = models(base, matrices(1, 12, 9))
    torch.testing.assert_close(merge_tensors("tsvm", parents, base=base), parents["m0"])


def test_tsvm_of_equal_models_stays_bounded() -> None:
    (base,) = matrices(1, 12, 9)
    delta = matrices(1, 12, 9)[0]
    merged = merge_tensors("tsvm", models(base, [delta] * 3), base=base)
    assert spectrum(merged, base)[0] <= 3 * spectrum(base + delta, base)[0]


def test_tsvm_weights_are_linear() -> None:
    (base,) = matrices(1, 12, 9)
    parents = models(base, matrices(3, 12, 9))

    def delta(weight: list[float]) -> Tensor:
        return merge_tensors("tsvm", parents, base=base, parameters={"weight": weight}) - base

    parts = 0.5 * delta([1, 0, 0]) + 2 * delta([0, 1, 0]) + delta([0, 0, 1])
    torch.testing.assert_close(delta([0.5, 2, 1]), parts, rtol=1e-4, atol=1e-6)


def test_tsvm_outlier_reweight_favours_the_model_with_outliers() -> None:
    base = torch.zeros(16, 16)
    flat, spiked = matrices(2, 16, 16)
    flat, spiked = flat.sign() * 0.1, spiked.sign() * 0.1
    spiked[3, 5] = 10
    parents = models(base, [flat, spiked])
    reweighted = merge_tensors("tsvm", parents, base=base, parameters={"outlier_reweight": True})
    alone = merge_tensors("tsvm", parents, base=base, parameters={"weight": [0, 2]})
    torch.testing.assert_close(reweighted, alone)


def test_tsvm_adaptive_rank_keeps_less_of_a_sparse_delta() -> None:
    base = torch.zeros(16, 16)
    dense = matrices(1, 16, 16)[0].sign()
    sparse = torch.diag(torch.linspace(1, 2, 16))
    options = {"adaptive_rank": True, "weight": [0, 1]}
    merged = merge_tensors("tsvm", models(base, [dense, sparse]), base=base, parameters=options)
    assert torch.linalg.matrix_rank(merged, rtol=1e-5) == 1


def test_opcm_in_full_matrices() -> None:
    """The thin form against the definition, with U and V completed to square matrices."""
    (base,) = matrices(1, 12, 9)
    first, second = (delta.double() for delta in matrices(2, 12, 9))
    left, values, right = torch.linalg.svd(first, full_matrices=True)
    split = int((values.cumsum(0) <= 0.4 * values.sum()).sum())
    projected = left.mT @ second @ right.mT
    projected.diagonal().zero_()
    projected[:split, :split] = 0
    total = first + left @ projected @ right
    expected = base + total * (first.norm() + second.norm()) / 2 / total.norm()
    parents = models(base.double(), [first, second])
    merged = merge_tensors("opcm", parents, base=base, parameters={"alpha": 0.4})
    assert split > 1
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-6)


def test_opcm_order() -> None:
    (base,) = matrices(1, 12, 9)
    parents = models(base, matrices(3, 12, 9))
    turned = {name: parents[name] for name in ("m2", "m0", "m1")}
    ordered = {"order": {"m0": 2, "m1": 3, "m2": 1}}
    there = merge_tensors("opcm", parents, base=base, parameters=ordered)
    torch.testing.assert_close(there, merge_tensors("opcm", turned, base=base))
    assert not there.allclose(merge_tensors("opcm", parents, base=base))


def test_opcm_scales_the_model_as_a_whole() -> None:
    base = {"a": torch.zeros(6, 5), "b": torch.zeros(4)}
    a, b = matrices(2, 6, 5)
    states = {"one": {"a": a, "b": torch.ones(4)}, "two": {"a": b, "b": -torch.ones(4)}}
    merged = merge_states("opcm", states, base=base)

    def length(state: dict[str, Tensor]) -> float:
        return float(sum(tensor.double().square().sum() for tensor in state.values())) ** 0.5

    assert merged["b"].count_nonzero() == 0
    assert length(merged) == pytest.approx((length(states["one"]) + length(states["two"])) / 2)


class Live(TorchDispatchMode):
    """Bytes that results of torch operations hold within the context, beside what was given: now, and at most."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._held = {tensor.untyped_storage().data_ptr() for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._hold(each.untyped_storage())
        return found

    def _hold(self, storage: torch.UntypedStorage) -> None:
        where, size = storage.data_ptr(), storage.nbytes()
        if size and where not in self._held:
            self._held.add(where)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._release, where, size)

    def _release(self, where: int, size: int) -> None:
        self._held.discard(where)
        self.now -= size


@pytest.mark.parametrize("role", ["attn", "embed"])
def test_opcm_takes_no_more_memory_for_more_models(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the models themselves, which are mapped files in a merge."""
    monkeypatch.setattr(tiled, "CPU_TILE", 256)  # passes hold a tile of every model
    base, *deltas = matrices(17, 64, 48)

    def most(count: int) -> int:
        parents = models(base, deltas[:count])
        with Live([base, *parents.values()]) as live:
            merge_tensors("opcm", parents, base=base, role=role)
        return live.most

    few, many = most(3), most(16)
    assert few > 2 * base.nbytes, "the result, and the sum that it is made of"
    assert many < few + 4 * base.nbytes, "and not 13 deltas more"


@pytest.mark.parametrize("name", SPECTRAL)
def test_facts_and_threads_change_no_bit(name: str) -> None:
    (base,) = matrices(1, 96, 160)
    parents = models(base, matrices(2, 96, 160))
    method: Method = get(name)
    values = method.check({}, [*parents])
    expected = merge_tensors(name, parents, base=base)
    store = FactStore(limit=1 << 30)
    inputs = Inputs(parents, values, base, name="w", facts=store)
    torch.set_num_threads(2)
    for _ in range(2):
        totals = [method.survey(n, inputs) for n in range(len(method.surveys))]
        assert torch.equal(method.apply(replace(inputs, totals=totals)), expected)
    assert store.used > 0


def test_polar_has_orthonormal_columns() -> None:
    stack = matrices(1, 20, 7)[0].double()
    torch.testing.assert_close(polar(stack, "full"), polar(stack, "numerical"))
    nearest = polar(stack, "numerical")
    torch.testing.assert_close(nearest.mT @ nearest, torch.eye(7, dtype=torch.float64))
