"""What models have in common is what the authors' code says, and obeys its laws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file

from evomerge.errors import InputError
from evomerge.parents.comparison import Facts, Limits, Ranks, Sums, ranks, spectra, sums, verdict

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "kinship.json").read_text())["cases"]
NAMES = ("a", "b", "c")
LIMITS = Limits()


def facts_of(base: torch.Tensor, models: Sequence[torch.Tensor], mask: float = sums.MASK) -> Facts:
    measured = [[ranks(base, model) for model in models]]
    return Facts.of(NAMES[: len(models)], Sums.of(base, models, mask), measured)


# -- kinship as the authors compute it -----------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "kinship.safetensors")


def quantised(delta: torch.Tensor) -> torch.Tensor:
    return (delta / delta.abs().max() * 127).round()


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_kinship_is_the_authors(case: dict[str, Any], golden: dict[str, torch.Tensor]) -> None:
    prefix = f"{case['case']}/"
    own = {key.removeprefix(prefix): t for key, t in golden.items() if key.startswith(prefix)}
    names = [key.removeprefix("base/") for key in own if key.startswith("base/")]
    deltas = [
        [own[f"model-{n}/{name}"].float() - own[f"base/{name}"].float() for n in (0, 1)]
        for name in names
    ]
    if case["variant"] == "original":
        whole = [torch.cat([pair[n].flatten() for pair in deltas]) for n in (0, 1)]
        if case["parameters"]["low_precision"]:
            whole = [quantised(delta) for delta in whole]
        deltas = [whole]
    found = []
    for pair in deltas:
        measured = facts_of(torch.zeros_like(pair[0]), pair).pairs["a", "b"]
        if measured.cosine is not None and measured.pearson is not None:
            numbers = (abs(measured.cosine), measured.pearson, measured.euclid)
            found.append((pair[0].numel(), numbers))
    total = sum(size for size, _ in found)
    means = [sum(size * each[n] for size, each in found) / total for n in range(3)]
    for name, mean in zip(("cs", "pcc", "ed"), means, strict=True):
        expected = float(own[f"expected-{name}"])
        assert mean == pytest.approx(expected, rel=case["rtol"], abs=case["atol"]), name


# -- laws ----------------------------------------------------------------------------------------

ENTRIES = arrays(
    np.float32,
    st.shared(st.tuples(st.integers(1, 5), st.integers(1, 6)), key="shape"),
    elements=st.sampled_from([-3.0, -1.0, -0.25, 0.0, 0.0, 0.5, 1.0, 2.0]),
)
laws = settings(max_examples=40, deadline=None)


@laws
@given(ENTRIES, st.lists(ENTRIES, min_size=1, max_size=3), st.sampled_from([0.2, 0.4, 1.0]))
def test_shares_add_up(
    base: np.ndarray[Any, Any], deltas: list[np.ndarray[Any, Any]], mask: float
) -> None:
    ours = torch.from_numpy(base)
    facts = facts_of(ours, [ours + torch.from_numpy(delta) for delta in deltas], mask)
    assert sum(facts.masks.values()) == pytest.approx(1)
    assert all(share >= 0 for share in facts.masks.values())
    alone = sum(model.alone for model in facts.models.values())
    assert alone == pytest.approx(facts.masks["selfish"])
    for model in facts.models.values():
        assert model.alone <= model.needed <= 1 - model.zeros + 1e-9
        assert model.density is None or 0 < model.density <= 1 + 1e-9
        if model.stable and model.effective and model.full:
            assert 1 - 1e-9 <= model.stable <= model.full + 1e-6
            assert 1 - 1e-9 <= model.effective <= model.full + 1e-6


@laws
@given(ENTRIES, ENTRIES)
def test_equal_models_are_one(base: np.ndarray[Any, Any], delta: np.ndarray[Any, Any]) -> None:
    ours = torch.from_numpy(base)
    model = ours + torch.from_numpy(delta)
    pair = facts_of(ours, [model, model.clone()]).pairs["a", "b"]
    assert pair.euclid == 0
    if not delta.any():
        assert pair.cosine is None and pair.conflict is None
    else:
        assert pair.cosine == pytest.approx(1)
        assert pair.conflict == 0


@laws
@given(ENTRIES, ENTRIES)
def test_opposites_conflict_everywhere(
    base: np.ndarray[Any, Any], delta: np.ndarray[Any, Any]
) -> None:
    ours, change = torch.from_numpy(base), torch.from_numpy(delta)
    pair = facts_of(ours, [ours + change, ours - change]).pairs["a", "b"]
    assert pair.conflict == (1 if delta.any() else None)
    assert pair.cosine == (pytest.approx(-1) if delta.any() else None)


@laws
@given(ENTRIES, ENTRIES, ENTRIES)
def test_tensors_add_up(
    first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], third: np.ndarray[Any, Any]
) -> None:
    base, one, other = map(torch.from_numpy, (first, second, third))
    models = [base + one, base + other]
    whole = Sums.of(base, models)
    flat = [each.reshape(-1) for each in (base, *models)]
    cut = flat[0].numel() // 2
    halves = [
        Sums.of(flat[0][part], [each[part] for each in flat[1:]])
        for part in (slice(0, cut), slice(cut, None))
    ]
    for name, value in vars(halves[0] + halves[1]).items():
        assert np.allclose(value, getattr(whole, name)), name


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base, *models = (torch.randn(50, 7) for _ in range(4))
    whole = vars(Sums.of(base, models))
    monkeypatch.setattr(sums, "CHUNK", 33)
    for name, value in vars(Sums.of(base, models)).items():
        assert np.allclose(value, whole[name], rtol=1e-9), name


def test_what_needs_an_entry_is_as_the_paper_has_it() -> None:
    base = torch.zeros(5)
    models = [torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, -1.0, 0.0, 5.0])]
    # 1: a alone; 2, 3: both, as 1 > .4; 4: nobody touches it; 5: 1 < .4 * 5, so b alone
    facts = facts_of(base, models)
    assert facts.masks == {
        "untouched": 0.2,
        "catastrophic": 0.0,
        "selfish": pytest.approx(0.4),
        "shared": pytest.approx(0.4),
    }
    third = [*models, torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0])]
    # with a third one: of 9 in all, b's 5 > .4 * 4, the third's 3 > .4 * 6, a's 1 < .4 * 8
    assert facts_of(base, third).models["a"].needed == pytest.approx(3 / 5)


def test_rounding_is_of_the_change() -> None:
    torch.manual_seed(0)
    base = torch.randn(400).bfloat16()
    models = [(base.float() + 0.01 * torch.randn(400)).bfloat16() for _ in range(2)]
    facts = facts_of(base, models)
    assert facts.models["a"].rounding["bfloat16"] == 0  # it is stored so
    mean = (models[0].float() + models[1].float()) / 2
    lost = (mean.bfloat16().float() - mean).norm() / (mean - base.float()).norm()
    assert facts.rounding["bfloat16"] == pytest.approx(float(lost), rel=1e-5)
    assert facts.rounding["float32"] == 0
    large = torch.full((4,), 1e6)
    assert "float16" not in facts_of(large, [large + 1]).rounding  # it cannot hold them


# -- ranks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_ranks_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    base, delta = torch.randn(shape), torch.randn(shape)
    values = torch.linalg.svdvals(delta.double())
    share = values / values.sum()
    found = ranks(torch.zeros(shape), delta)
    assert found is not None and found.effective is not None
    assert found.stable == pytest.approx(float(values.square().sum() / values[0] ** 2))
    assert found.effective == pytest.approx(float((-(share * share.log()).sum()).exp()))
    assert found.full == 12
    assert ranks(base, base) is None
    assert ranks(torch.zeros(5), torch.ones(5)) is None


def test_a_product_of_thin_factors_has_their_rank() -> None:
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(40, 3).double())
    right, _ = torch.linalg.qr(torch.randn(25, 3).double())
    found = ranks(torch.zeros(40, 25, dtype=torch.float64), left @ right.T)
    assert found == Ranks(pytest.approx(3), pytest.approx(3), 25)


def test_a_large_matrix_is_estimated_the_same_at_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    base = torch.zeros(60, 40)
    delta = torch.randn(60, 40) + 3 * torch.randn(60, 1) @ torch.randn(1, 40)
    exact = ranks(base, delta)
    monkeypatch.setattr(spectra, "EXACT", 16)
    found = ranks(base, delta, "name")
    assert exact and found and found.effective is None
    assert found == ranks(base, delta, "name")
    assert found.stable == pytest.approx(exact.stable, rel=0.05)
    assert ranks(base, delta, exact=True) == exact


# -- verdict -------------------------------------------------------------------------------------


def said(facts: Facts, limits: Limits = LIMITS, **more: Any) -> dict[str, str]:
    """Rule -> level."""
    return {f.rule: f.level for f in verdict(facts, limits, dtype="float32", **more)}


def test_the_rules_find_what_they_look_for() -> None:
    torch.manual_seed(0)
    base = torch.randn(64, 32)
    one, other = (base + 0.1 * torch.randn(64, 32) for _ in range(2))
    near = one + 0.01 * torch.randn(64, 32)
    plain = said(facts_of(base, [one, other]), instructed=True)
    assert set(plain.values()) == {"ok"}
    assert said(facts_of(base, [one, other]), instructed=False)["weak base"] == "note"
    assert said(facts_of(base, [one, base]))["equal parents"] == "warning"
    assert said(facts_of(base, [one, one.clone()]))["equal parents"] == "warning"
    redundant = said(facts_of(base, [one, near]))
    assert redundant["redundant parents"] == "warning" and "equal parents" not in redundant
    double = base + 2 * (one - base)  # of the same direction, but not the same model
    assert said(facts_of(base, [one, double]))["redundant parents"] == "warning"
    far = said(facts_of(base, [base + torch.randn(64, 32), other]))
    assert far["weak base"] == "warning"
    assert said(facts_of(base, [one, 2 * base - one]))["conflict"] == "warning"
    assert said(facts_of(base, [one, other]), Limits(parents=1))["too many parents"] == "warning"


def test_limits_are_set_by_name() -> None:
    assert Limits().setting(["redundant=0.5", "parents=2"]) == Limits(parents=2, redundant=0.5)
    for wrong in ("redundent=0.5", "equal", "equal=much", "equal=nan", "equal=-1"):
        with pytest.raises(InputError, match=r"--limit"):
            Limits().setting([wrong])
    assert Limits().parents_of(1_000_000_000) < Limits().parents_of(70_000_000_000)
