from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge import methods
from evomerge.errors import InputError
from evomerge.methods import Inputs, merge_tensors
from evomerge.methods.kernel.draws import draw_key, uniforms

BASE = torch.zeros(2, 3)
MODELS = {"chat": torch.ones(2, 3), "sea": torch.full((2, 3), 3.0)}


def test_ways_to_give_per_model_values() -> None:
    for weight in ({"sea": 2, "chat": 0.5}, [0.5, 2], (0.5, 2.0)):
        out = merge_tensors("task_arithmetic", MODELS, base=BASE, parameters={"weight": weight})
        assert torch.equal(out, torch.full((2, 3), 6.5))
    out = merge_tensors("task_arithmetic", MODELS, base=BASE, parameters={"weight": 2, "lambda": 1})
    assert torch.equal(out, torch.full((2, 3), 8.0))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("tie", {}, "no merge method 'tie' (did you mean 'ties'?)"),
        ("ties", {"parameters": {"densty": 1}}, "no such parameter (did you mean 'density'?)"),
        ("ties", {"parameters": {"density": 1.5}}, "density: expected a number in [0, 1]"),
        ("ties", {"parameters": {"weight": "1"}}, "weight: expected a number, found '1'"),
        ("ties", {"parameters": {"weight": [1]}}, "weight: expected 2 values, one per model"),
        ("ties", {"parameters": {"weight": {"chat": 1}}}, "weight: no value for sea"),
        (
            "ties",
            {"parameters": {"weight": {"chat": 1, "sae": 1, "sea": 1}}},
            "weight: no model 'sae' (did you mean 'sea'?)",
        ),
        ("ties", {"parameters": {"lambda": {"chat": 1, "sea": 1}}}, "lambda: expected a number"),
        (
            "ties",
            {"parameters": {"normalize": 1}},
            "normalize: expected true or false or signed, found 1",
        ),
        ("dare_ties", {"parameters": {"rescale": "l3"}}, "rescale: expected true or false or"),
        ("ties", {"base": None}, "ties needs the base model"),
        ("linear", {}, "linear takes no base"),
        ("slerp", {}, "slerp takes exactly 1 of the source models, found 2"),
        ("widen", {"models": {"a": BASE}}, "widen takes at least 2 of the source models, found 1"),
        ("ties", {"models": {}}, "ties takes at least 1 of the source models, found 0"),
        ("ties", {"base": torch.zeros(3, 2)}, "chat has shape [2, 3], base has [3, 2]"),
        ("ties", {"models": {"a": BASE.int()}}, "a: expected a floating dtype, found torch.int32"),
        ("dare_ties", {"noise": {"chat": BASE}}, "noise: nothing for model sea"),
        ("dare_ties", {"noise": {"chat": BASE, "sea": BASE.T}}, "noise: sea has shape [3, 2]"),
    ],
)
def test_mistakes_are_named(method: str, changes: dict[str, Any], message: str) -> None:
    arguments = {"models": MODELS, "base": BASE, **changes}
    with pytest.raises(InputError) as caught:
        merge_tensors(method, **arguments)
    assert message in str(caught.value)


def test_all_mistakes_in_one_message() -> None:
    parameters = {"density": 2, "lambda": None, "wieght": 1}
    with pytest.raises(InputError) as caught:
        merge_tensors("ties", MODELS, base=BASE, parameters=parameters)
    assert len(str(caught.value).splitlines()) == 3


def test_an_average_with_weights_that_sum_to_0_is_refused() -> None:
    parameters: dict[str, Any] = {"weight": [1, -1]}
    with pytest.raises(InputError, match="sum to 0"):
        merge_tensors("linear", MODELS, parameters=parameters)
    out = merge_tensors("linear", MODELS, parameters={**parameters, "normalize": False})
    assert torch.equal(out, torch.full((2, 3), -2.0))


def random_merge(**changes: Any) -> torch.Tensor:
    base = torch.zeros(8, 16)
    models = {"a": base + 1, "b": base + 100}
    return merge_tensors(
        "dare_linear", **{"models": models, "base": base, "seed": 1, "name": "w", **changes}
    )


def test_a_mask_depends_on_seed_tensor_and_model_alone() -> None:
    base = torch.zeros(8, 16)
    parameters = {"rescale": False}
    alone = random_merge(models={"b": base + 100}, parameters=parameters)
    both = random_merge(parameters=parameters)
    assert torch.equal((both >= 100), (alone == 100))
    assert torch.equal(both, random_merge(parameters=parameters))
    for other in ({"seed": 2}, {"name": "v"}):
        assert not torch.equal(both, random_merge(parameters=parameters, **other))
    draws = uniforms(draw_key(1, "w", "b"), 0, base.numel(), base.device)
    assert torch.equal(alone.flatten() == 100, draws < 0.5)


def test_a_lower_density_keeps_a_subset() -> None:
    kept = [
        random_merge(parameters={"density": density, "weight": [1, 0], "rescale": False}) == 1
        for density in (0.3, 0.6)
    ]
    assert bool((kept[0] <= kept[1]).all()) and kept[0].sum() < kept[1].sum()


def test_given_noise_replaces_the_draw() -> None:
    keep = (torch.arange(128).reshape(8, 16) % 3 == 0).float()
    noise = {"a": 1 - keep, "b": torch.ones(8, 16)}
    out = random_merge(noise=noise, parameters={"rescale": "density", "density": 0.25})
    assert torch.equal(out, keep * 4)


def test_apply_takes_what_check_returns() -> None:
    ties = methods.get("ties")
    values = ties.check({"weight": 0.5, "density": [1, 0.5]}, list(MODELS))
    assert values["weight"] == {"chat": 0.5, "sea": 0.5}
    assert values["density"] == {"chat": 1, "sea": 0.5}
    assert set(values) == {parameter.name for parameter in ties.parameters}
    assert torch.equal(
        ties.apply(Inputs(MODELS, values, BASE)),
        merge_tensors("ties", MODELS, base=BASE, parameters={"weight": 0.5, "density": [1, 0.5]}),
    )


def test_a_model_may_be_named_like_the_base() -> None:
    out = merge_tensors("linear", {"base": BASE, **MODELS}, parameters={"weight": [1, 1, 2]})
    assert torch.equal(out, torch.full((2, 3), 7 / 4))


@pytest.mark.parametrize("method", ["ties", "slerp", "dare_linear", "iso_c", "twin"])
def test_a_merge_lets_go_of_its_tensors_at_once(method: str) -> None:
    """Whole models are merged tensor by tensor: what only the garbage collector frees piles up meanwhile."""
    import gc
    import weakref

    from evomerge.methods import Inputs, get

    source, base = torch.randn(6, 5), torch.randn(6, 5)
    values = get(method).check({}, ("m",))
    held, watched = Inputs({"m": source}, values, base=base), weakref.ref(source)
    gc.disable()
    try:
        get(method).run(held)
        get(method).form(held).merged()
        del held, source
        assert watched() is None
    finally:
        gc.enable()
