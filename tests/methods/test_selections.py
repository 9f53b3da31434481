"""Methods that select, sign or weigh entries of few tensors, against their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.methods import merge_tensors

laws = settings(max_examples=30, deadline=None, derandomize=True)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_arcee_fusion_takes_the_one_change_that_stands_out() -> None:
    base = normal(0, 8, 16)
    model = base + 1e-3 * normal(1, 8, 16)
    model[5, 3] += 2.0
    merged = merge_tensors("arcee_fusion", {"m": model}, base=base)
    assert merged[5, 3] == pytest.approx(float(model[5, 3]))
    kept = merged != base
    assert kept[5].sum() > kept.sum() / 2  # the row that diverges is the one that counts
    torch.testing.assert_close(merged[kept], model[kept])


def test_arcee_fusion_sees_small_changes_of_large_rows() -> None:
    """Divergences near 1e-12 still rank: scaling all changes keeps the selection."""
    base, change = 0.02 * normal(0, 16, 256), normal(1, 16, 256)
    kept = [
        merge_tensors("arcee_fusion", {"m": base + scale * change}, base=base) != base
        for scale in (1e-4, 1e-3)
    ]
    assert (kept[0] == kept[1]).float().mean() > 0.98
    assert 0 < kept[0].float().mean() < 0.5


@given(st.integers(0, 999), st.floats(0.0, 0.1))
@laws
def test_nearswap_moves_towards_the_model_by_t_at_most(seed: int, t: float) -> None:
    base, model = normal(seed, 40), normal(seed + 1, 40) / 10
    merged = merge_tensors("nearswap", {"m": base + model}, base=base, parameters={"t": t})
    torch.testing.assert_close(merged - base, model.clamp(-t, t), rtol=0, atol=1e-6)


def test_ram_divides_by_the_models_that_changed_an_entry() -> None:
    base = torch.zeros(4)
    models = {"a": torch.tensor([1.0, 1, 0, 1e-6]), "b": torch.tensor([0.0, 3, 0, 0])}
    merged = merge_tensors("ram", models, base=base, parameters={"epsilon": 1e-5})
    assert merged.tolist() == [1.0, 2.0, 0.0, 0.0]
    plus = merge_tensors("ramplus_tl", models, base=base, parameters={"r": 0.5, "alpha": 0.8})
    assert plus.tolist() == pytest.approx([1.4, 2.0, 0.0, 0.0])  # a: 1 unique, 1 shared


@given(st.integers(0, 999), st.floats(0.5, 1.5))
@laws
def test_no_other_one_bit_delta_is_nearer(seed: int, factor: float) -> None:
    base, delta = normal(seed, 6, 7), normal(seed + 1, 6, 7)
    one_bit = merge_tensors("sign1bit", {"m": base + delta}, base=base) - base
    assert one_bit.abs().max() - one_bit.abs().min() < 1e-5
    assert (one_bit - delta).norm() <= (factor * one_bit - delta).norm() + 1e-4


@pytest.mark.parametrize("role", ["mlp", "attn"])
def test_mod_mask_ends_at_its_models(role: str) -> None:
    models = {"a": normal(0, 5, 6), "b": normal(1, 5, 6)}

    def merged(t: float) -> torch.Tensor:
        return merge_tensors("mod_mask", models, parameters={"t": t}, role=role)

    assert torch.equal(merged(1), models["b"])
    assert (merged(0) != models["a"]).sum() == (role == "mlp")  # all but the largest entry


def test_mod_mask_cuts_mlps_by_signed_value() -> None:
    models = {"a": torch.tensor([-3.0, -1.0, 0.0, 1.0]), "b": torch.full((4,), 9.0)}
    merged = merge_tensors("mod_mask", models, parameters={"t": 0.4}, role="mlp")
    assert merged.tolist() == [-3.0, -1.0, 9.0, 9.0]  # n = 0, .5, .75, 1 against .6
    other = merge_tensors("mod_mask", models, parameters={"others": "first"}, role="norm")
    assert torch.equal(other, models["a"])


@pytest.mark.parametrize("strategy", ["magnitude", "svd"])
def test_twins_that_lose_nothing_give_back_their_model(strategy: str) -> None:
    base, models = normal(0, 6, 5), {"a": normal(1, 6, 5), "b": normal(2, 6, 5)}
    parameters = {"mask_rate": 0, "mask_strategy": strategy, "weight": [0, 1]}
    merged = merge_tensors("twin", models, base=base, parameters=parameters)
    torch.testing.assert_close(merged, models["b"])


def test_twins_of_low_rank() -> None:
    base, models = normal(0, 10, 8), {"a": normal(1, 10, 8), "b": normal(2, 10, 8)}
    parameters = {"mask_rate": 0.7, "mask_strategy": "svd", "weight": [1, 0]}
    merged = merge_tensors("twin", models, base=base, parameters=parameters)
    shared = base + 0.3 * (models["a"] + models["b"] - 2 * base)
    assert torch.linalg.matrix_rank(merged - shared, atol=1e-4) == 2  # int(0.3 * 8)


def test_varm_weighs_by_mean_square() -> None:
    base, delta = normal(0, 4, 4), normal(1, 4, 4)
    merged = merge_tensors("varm", {"a": base + delta, "b": base + 3 * delta}, base=base)
    torch.testing.assert_close(merged, base + (0.1 * 1 + 0.9 * 3) * delta)


@given(st.floats(0.1, 10), st.floats(0, 3))
@laws
def test_lm_cocktail_favours_the_lower_loss(temperature: float, gap: float) -> None:
    models = {"good": torch.tensor([1.0]), "bad": torch.tensor([0.0])}
    parameters = {"loss": {"good": 1.0, "bad": 1.0 + gap}, "temperature": temperature}
    share = float(merge_tensors("lm_cocktail", models, parameters=parameters))
    assert share == pytest.approx(1 / (1 + 2.718281828 ** (-gap / temperature)), rel=1e-5)
