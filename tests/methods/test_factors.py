"""Methods on the factors of adapters, beyond golden numbers and laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evomerge import merge_method, merge_tensors
from evomerge.errors import InputError
from evomerge.factors import Factors
from evomerge.methods import Inputs, get
from evomerge.testing.methods import factors

SHAPE = (10, 8)
BASE = torch.zeros(SHAPE)


def held(*ranks: int) -> dict[str, tuple[Tensor, Tensor]]:
    return {f"m{n}": factors(n, SHAPE, rank, 0.5) for n, rank in enumerate(ranks)}


def inputs(method: str, given: dict[str, tuple[Tensor, Tensor]], **parameters: object) -> Inputs:
    return Inputs(
        models=dict.fromkeys(given, BASE),
        values=get(method).check(parameters, tuple(given)),
        base=BASE,
        name="w",
        factors={model: Factors(*each) for model, each in given.items()},
    )


@pytest.mark.parametrize("reweight", ["both", "norm", "none"])
def test_lego_of_all_ranks_is_the_exact_sum(reweight: str) -> None:
    given, weights = held(3, 2, 4), [1.0, -0.5, 2.0]
    merged = merge_tensors(
        "lego",
        {},
        base=BASE,
        factors=given,
        parameters={"share": 1.0, "weight": weights, "reweight": reweight},
    )
    expected = sum(
        w * left @ right for w, (left, right) in zip(weights, given.values(), strict=True)
    )
    torch.testing.assert_close(merged, expected)


@pytest.mark.parametrize(("share", "rank"), [(0.5, 4), (0.1, 1), (0.0, 1), (0.4, 4)])
def test_lego_has_the_rank_that_is_asked_for(share: float, rank: int) -> None:
    given = inputs("lego", held(4, 5), share=share)
    form = get("lego").form(given)
    assert form.factors is not None and form.factors.rank == rank
    assert torch.linalg.matrix_rank(form.factors.product) == rank
    torch.testing.assert_close(form.merged(), form.factors.product)
    # what a line over depth scales is the change
    half = get("lego").form(given, scale=0.5)
    torch.testing.assert_close(half.merged(), form.factors.product / 2)
    assert half.factors is not None
    torch.testing.assert_close(half.factors.product, form.factors.product / 2)


def test_lego_finds_ranks_that_adapters_share() -> None:
    """Two adapters of the same three directions and noise: three clusters, each the mean of a pair."""
    left, right = factors(0, SHAPE, 3, 1.0)
    noise = [factors(seed, SHAPE, 3, 0.01)[0] for seed in (1, 2)]
    turned = [2, 0, 1]  # which rank is which does not matter
    given = {
        "a": (left + noise[0], right),
        "b": ((left + noise[1])[:, turned], right[turned]),
    }
    options = {"share": 0.5, "reweight": "none"}
    merged = merge_tensors("lego", {}, base=BASE, factors=given, parameters=options)
    mean = left + (noise[0] + noise[1]) / 2
    torch.testing.assert_close(merged, mean @ right)


def test_lego_keeps_lengths_and_the_size_of_outputs() -> None:
    left, right = factors(0, SHAPE, 1, 1.0)
    given = {"a": (left, right), "b": (left, right)}  # equal: the mean is as long as its members

    def merged(reweight: str, **parameters: float) -> Tensor:
        options = {"share": 0.5, "reweight": reweight, **parameters}
        return merge_tensors("lego", {}, base=BASE, factors=given, parameters=options)

    torch.testing.assert_close(merged("norm"), left @ right)
    torch.testing.assert_close(merged("both"), 2**0.5 * left @ right)
    # an adapter's own size, as in the paper
    torch.testing.assert_close(merged("both", **{"lambda": 2**-0.5}), left @ right)
    apart = {"a": (left, right), "b": (left, -right)}
    short = merge_tensors(
        "lego", {}, base=BASE, factors=apart, parameters={"share": 0.5, "reweight": "none"}
    )
    assert not short.any()  # (left, right) and (left, -right): their mean has no right
    long = merge_tensors(
        "lego", {}, base=BASE, factors=apart, parameters={"share": 0.5, "reweight": "norm"}
    )
    assert not long.any()


def test_robustmerge_by_hand() -> None:
    """Four entries a factor, half of them kept; scales of 12/10 and 4/3, both at least the larger one."""
    right = torch.tensor([[10.0, 2.0], [3.0, 1.0]])
    left = torch.tensor([[1.0, 5.0], [4.0, 2.0]])
    options = {"density": 0.25, "quantile": 0.5, "lambda": 1.0}
    merged = merge_tensors(
        "robustmerge", {}, base=torch.zeros(2, 2), factors={"m": (left, right)}, parameters=options
    )
    # kept from the third of four magnitudes on: right [[10, 0], [3, 0]], left [[0, 5], [4, 0]]
    kept = torch.tensor([[0.0, 5.0], [4.0, 0.0]]) @ torch.tensor([[10.0, 0.0], [3.0, 0.0]])
    torch.testing.assert_close(merged, kept)  # of one model the scales cancel


def test_robustmerge_weighs_models_by_what_their_ranks_lost() -> None:
    right = {"a": torch.tensor([[4.0, 1.0, 1.0, 2.0]]), "b": torch.tensor([[8.0, 0.0, 0.0, 0.0]])}
    left = torch.tensor([[1.0], [1.0]])
    given = {name: (left, each) for name, each in right.items()}
    options = {"density": 0.25, "lambda": 1.0, "weight": [1.0, 0.5]}
    merged = merge_tensors(
        "robustmerge", {}, base=torch.zeros(2, 4), factors=given, parameters=options
    )
    scale = torch.tensor(
        [8 / 6, 1.0]
    )  # of a the entries from 2 on are kept, of b all that are not 0
    side = (scale * torch.tensor([1.0, 0.5])).sum() / scale.sum()
    row = torch.tensor([4.0 + 0.5 * 8, 0.0, 0.0, 2.0])
    torch.testing.assert_close(merged, (side * row).expand(2, 4))


def test_robustmerge_without_normalising_is_a_sum_over_the_models() -> None:
    given = held(2, 2)
    options = {"density": 1.0, "lambda": 1.0, "normalize": False}
    merged = merge_tensors("robustmerge", {}, base=BASE, factors=given, parameters=options)
    (b, a), (d, c) = given.values()
    torch.testing.assert_close(merged, (b + d) / 2 @ (a + c))  # nothing is lost: scales of 1


@pytest.mark.parametrize(
    ("method", "names"), [("robustmerge", ["weight", "lambda"]), ("lego", ["lambda"])]
)
def test_slopes_by_what_is_declared_smooth(method: str, names: list[str]) -> None:
    """The merge is a polynomial in it of at most two degrees, of which central differences are exact."""
    given, step = inputs(method, held(3, 2)), 0.25
    for name, model, tangent in get(method).tangents(given):
        assert name in names
        ends = []
        for sign in (1, -1):
            value = given.values[name]
            moved = {**value, model: value[model] + sign * step} if model else value + sign * step
            ends.append(get(method).apply(replace(given, values={**given.values, name: moved})))
        torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=1e-4)


def test_a_rank_of_which_nothing_is_kept_makes_no_nan() -> None:
    right = torch.tensor([[9.0, 8.0, 7.0, 6.0], [0.1, 0.1, 0.1, 0.1]])
    left = torch.ones(3, 2)
    given = {"a": (left, right), "b": factors(0, (3, 4), 1, 1.0)}
    merged = merge_tensors(
        "robustmerge", {}, base=torch.zeros(3, 4), factors=given, parameters={"density": 0.5}
    )
    assert merged.isfinite().all()


@pytest.mark.parametrize("method", ["robustmerge", "lego"])
def test_what_has_no_factors_is_averaged(method: str) -> None:
    models = {"a": torch.ones(3), "b": torch.full((3,), 3.0)}
    merged = merge_tensors(method, models, base=torch.zeros(3), parameters={"weight": [1.0, 0.5]})
    torch.testing.assert_close(merged, torch.full((3,), 1.25))


@pytest.mark.parametrize("method", ["robustmerge", "lego"])
def test_an_entry_that_is_broken_in_a_source_is_broken(method: str) -> None:
    given = inputs(method, held(2, 2))
    broken = BASE.clone()
    broken[1, 2] = torch.nan
    merged, finite = get(method).run(replace(given, models={"m0": broken, "m1": BASE}))
    assert not finite and merged.isnan().sum() == 1 and merged[1, 2].isnan()


def test_factors_that_do_not_fit_are_refused() -> None:
    given = held(2, 2)
    with pytest.raises(InputError, match="ties does not merge factors"):
        merge_tensors("ties", {}, base=BASE, factors=given)
    with pytest.raises(InputError, match=r"factors: nothing for model c"):
        merge_tensors("lego", {"c": BASE}, base=BASE, factors=given)
    wrong = {**given, "m0": factors(0, (8, 10), 2, 1.0)}
    models = dict.fromkeys(given, BASE)
    with pytest.raises(InputError, match=r"m0: their shapes are \[8, 2\] and \[2, 10\]"):
        merge_tensors("lego", models, base=BASE, factors=wrong)


def test_a_kernel_on_factors_needs_a_base() -> None:
    with pytest.raises(TypeError, match="'factors' need base="):

        @merge_method(base="none", paper="https://example.org")
        def of_factors(tensors: Tensor, factors: tuple[Factors, ...] | None) -> Tensor:
            """Say nothing."""
            return tensors[0]
