"""What the trimming methods keep, against definitions written out, and how their parts agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge import methods
from evomerge.methods import FactStore, Inputs, merge_tensors
from evomerge.methods.kernel import compiled, passes, tiled
from evomerge.methods.kernel.entrywise import Pass
from evomerge.methods.kernel.facts import Facts
from evomerge.methods.kernel.leaves import NOTHING
from evomerge.methods.kernel.operands import Operands
from evomerge.methods.kernel.order_statistics import top
from evomerge.methods.sce import selected_squares, variance


def rough(*shape: int, seed: int, step: float = 0.25) -> Tensor:
    """Normal numbers rounded to multiples of ``step``, so that many magnitudes tie."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) / step).round() * step


def family(*shape: int, step: float = 0.25) -> dict[str, Any]:
    """Three sources whose deltas are multiples of ``step``."""
    models = {f"m{i}": rough(*shape, seed=i, step=step) for i in range(3)}
    return {"models": models, "base": torch.zeros(shape)}


def operands(tensors: dict[str, Tensor], base: Tensor, store: FactStore) -> Operands:
    return Operands(tensors, base, Facts(store, "w", tuple(tensors)), lambda model: len(model))


def one(method: str, delta: Tensor, **parameters: Any) -> Tensor:
    """The sparse delta of one model of weight 1."""
    base = torch.zeros_like(delta)
    return merge_tensors(method, {"m": delta}, base=base, parameters=parameters, name="w")


# -- Breadcrumbs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [
        (0.5, 0.1, range(10, 60)),
        (0.95, 0.1, range(5, 100)),  # both do not fit: fewer outliers go
        (1.0, 0.1, range(100)),
        (0.004, 0.1, range(0)),
        (0.5, 0.0, range(50)),
    ],
)
def test_breadcrumbs_keeps_a_band_of_ranks(density: float, gamma: float, kept: range) -> None:
    delta = rough(5, 20, seed=0)
    order = delta.abs().flatten().argsort(descending=True, stable=True)
    expected = torch.zeros(100)
    expected[order[kept.start : kept.stop]] = delta.flatten()[order[kept.start : kept.stop]]
    sparse = one("breadcrumbs", delta, density=density, gamma=gamma)
    assert torch.equal(sparse.flatten(), expected)
    assert torch.equal(one("breadcrumbs_ties", delta, density=density, gamma=gamma), sparse)


def test_breadcrumbs_by_row() -> None:
    delta = torch.stack([torch.randperm(20) + 1.0 for _ in range(12)]).view(3, 4, 20)
    sparse = one("breadcrumbs", delta, density=0.5, gamma=0.1, scope="row")
    assert torch.equal(sparse, delta * ((delta > 8) & (delta <= 18)))


def test_breadcrumbs_restores_the_norm_of_what_it_cut() -> None:
    delta = rough(8, 9, seed=1)
    sparse = one("breadcrumbs", delta, density=0.3, gamma=0.05, rescale=True)
    torch.testing.assert_close(sparse.abs().sum(), delta.abs().sum())


# -- DELLA ---------------------------------------------------------------------------------------


def test_della_without_a_window_is_dare() -> None:
    merge = family(6, 7)
    for della, dare in (("della_linear", "dare_linear"), ("della", "dare_ties")):
        settings: dict[str, Any] = {"density": 0.4, "normalize": False}
        window = merge_tensors(della, **merge, parameters={**settings, "epsilon": 0}, name="w")
        assert torch.equal(window, merge_tensors(dare, **merge, parameters=settings, name="w"))


@pytest.mark.parametrize(
    ("by", "place"),
    [
        ("row", lambda x: x.abs().argsort(1).argsort(1) / (x.shape[1] - 1)),
        ("tensor", lambda x: x.abs().view(-1).argsort().argsort().view_as(x) / (x.numel() - 1)),
        (
            "magnitude",
            lambda x: (
                (x.abs() - x.abs().amin(1, True)) / (x.abs().amax(1) - x.abs().amin(1))[:, None]
            ),
        ),
    ],
)
def test_della_keeps_large_entries_likelier(by: str, place: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(9, 11, generator=generator)
    noise = torch.rand(9, 11, generator=generator)
    chance = 0.6 - 0.3 + 2 * 0.3 * place(delta)
    settings = {"density": 0.6, "epsilon": 0.3, "by": by}

    def merge(**more: Any) -> Tensor:
        return merge_tensors(
            "della_linear",
            {"m": delta},
            base=torch.zeros(9, 11),
            parameters=settings | more,
            noise={"m": noise},
        )

    kept = delta * (noise < chance)
    assert torch.equal(merge(rescale=False), kept)
    torch.testing.assert_close(merge(rescale="probability"), kept / chance)
    torch.testing.assert_close(merge(), kept * (delta.abs().sum() / kept.abs().sum()))


def test_della_cuts_a_window_that_does_not_fit() -> None:
    delta = rough(4, 5, seed=0)
    assert torch.equal(one("della_linear", delta, density=1, epsilon=0.2), delta)
    assert torch.equal(one("della_linear", delta, density=0, epsilon=0.2), torch.zeros(4, 5))
    wide, cut = (one("della_linear", delta, density=0.9, epsilon=e) for e in (0.2, 0.1))
    assert torch.equal(wide, cut)


def test_ranks_are_places_in_a_stable_order() -> None:
    source, base = rough(30, 50, seed=0).bfloat16(), rough(30, 50, seed=1).bfloat16()
    delta = (source.float() - base.float()).abs()
    expected = delta.argsort(dim=1, stable=True).argsort(1)
    for engine in (tiled, compiled):
        assert torch.equal(engine.ranks(source, base).int(), expected.int())
    long = rough(1, 70_000, seed=2), rough(1, 70_000, seed=3)
    assert torch.equal(tiled.ranks(*long), compiled.ranks(*long))


# -- SCE -----------------------------------------------------------------------------------------


def plain_sce(deltas: Tensor, share: float) -> Tensor:
    """SCE in float64, straight from the definition, lowest indices first at the cut."""
    deltas = deltas.double()
    spread = deltas.var(0, unbiased=False).flatten()
    count = int(share * (spread > 1e-12).sum())
    chosen = torch.zeros_like(spread)
    chosen[spread.argsort(descending=True, stable=True)[:count]] = 1
    some = deltas * chosen.view(deltas[0].shape)
    weight = some.square().flatten(1).mean(1)
    weight = (weight / weight.sum()).view(-1, *[1] * (deltas.ndim - 1))
    sign = torch.where(some.sum(0) >= 0, 1.0, -1.0)
    agree = (some.sign() == sign) * weight
    return torch.nan_to_num((some * agree).sum(0) / agree.sum(0))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_sce_at_any_scale(share: float, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(3, 8, 9, generator=generator) * torch.tensor([1.0, 2, 3]).view(3, 1, 1)
    models = {f"m{i}": delta * size for i, delta in enumerate(deltas)}
    merged = merge_tensors("sce", models, base=torch.zeros(8, 9), parameters={"select_topk": share})
    torch.testing.assert_close(merged / size, plain_sce(deltas, share).float())


def test_sce_selects_nothing_where_models_agree() -> None:
    delta = torch.randn(5, 6)
    for share, expected in ((0.99, torch.zeros(5, 6)), (1, delta)):
        models = dict.fromkeys(["a", "b", "c"], delta)
        merged = merge_tensors(
            "sce", models, base=torch.zeros(5, 6), parameters={"select_topk": share}
        )
        torch.testing.assert_close(merged, expected)


def test_varm_is_sce_where_no_sign_is_outvoted() -> None:
    models = {f"m{i}": torch.rand(7, 8) + 0.1 for i in range(3)}
    merge: dict[str, Any] = {"models": models, "base": torch.zeros(7, 8)}
    selected = merge_tensors("sce", **merge, parameters={"select_topk": 1})
    torch.testing.assert_close(merge_tensors("varm", **merge), selected)


def test_a_cut_from_kept_facts_is_the_cut_of_one_merge() -> None:
    family_ = family(20, 30)
    once = operands(family_["models"], family_["base"], FactStore())
    kept = operands(family_["models"], family_["base"], FactStore(1 << 20))
    spread = variance(tuple(family_["models"].values())).flatten()
    for fraction in (0.0001, 0.1, 0.12345678, 0.5, 1.0):
        cut = top(once, "variance", variance, fraction=fraction)
        assert cut == top(kept, "variance", variance, fraction=fraction)
        index = torch.arange(spread.numel())
        chosen = (spread > cut.value) | ((spread == cut.value) & (index <= cut.last))
        assert int(chosen.sum()) == int(fraction * int(spread.count_nonzero()))
    assert top(once, "variance", variance, fraction=0.0) is NOTHING


def test_sums_of_several_values_are_the_same_compiled() -> None:
    tensors, base = [rough(1, 999, seed=i) for i in range(3)], rough(1, 999, seed=9)
    work = Pass(selected_squares, (0.5,), tensors, base)
    assert compiled.sums(work, [2.0**-20] * 3) == tiled.sums(work, [2.0**-20] * 3)


# -- Model Stock ---------------------------------------------------------------------------------


def test_model_stock_by_tensor_and_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(6, 5, 7, generator=generator)
    deltas = common + torch.randn(4, 6, 5, 7, generator=generator) * 0.5
    models = {f"m{i}": delta for i, delta in enumerate(deltas)}

    def expected(flat: Tensor) -> Tensor:  # [models, rows, columns]
        unit = torch.nn.functional.normalize(flat.double(), dim=-1)
        cosine = (unit.sum(0).square().sum(-1) - 4) / 12
        ratio = 4 * cosine / (1 + 3 * cosine)
        return (ratio.unsqueeze(-1) * flat.double().mean(0)).float().view(6, 5, 7)

    for filter_wise, flat in ((False, deltas.view(4, 1, -1)), (True, deltas.view(4, 30, 7))):
        for size in (1.0, 1e-6):  # the ratio does not depend on the size of the deltas
            merged = merge_tensors(
                "model_stock",
                {name: model * size for name, model in models.items()},
                base=torch.zeros(6, 5, 7),
                parameters={"filter_wise": filter_wise, "clip": False},
            )
            torch.testing.assert_close(merged / size, expected(flat))


def test_model_stock_stays_between_base_and_average() -> None:
    models = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([-0.9, 0.3])}
    merge: dict[str, Any] = {"models": models, "base": torch.zeros(2)}
    assert torch.equal(merge_tensors("model_stock", **merge), torch.zeros(2))
    away = merge_tensors("model_stock", **merge, parameters={"clip": False})
    assert float(away @ sum(models.values())) < 0


@pytest.mark.parametrize("name", ["breadcrumbs", "della", "sce", "model_stock"])
def test_a_large_tensor_is_merged_the_same_compiled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, merge = methods.get(name), family(130, 260, step=0.01)
    values = method.check({}, tuple(merge["models"]))
    inputs = Inputs(**merge, values=values)
    fast = method.apply(replace(inputs, facts=FactStore(1 << 24)))
    monkeypatch.setattr(passes, "on", lambda device: tiled)
    assert torch.equal(fast, method.apply(inputs))
