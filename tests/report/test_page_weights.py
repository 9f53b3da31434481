"""Where the page puts a recipe's parameters: by layers and roles of groups, and by names of tensors."""

from __future__ import annotations

from evomerge.recipe import Body, group
from evomerge.report.page.weights import Value, known_at, values

MODELS = ("a", "b")


def found(body: Body, parameter: str = "weight") -> dict[tuple[str, int | None, str], float]:
    return {(v.kind, v.layer, v.source): v.value for v in values(body) if v.parameter == parameter}


def test_the_first_group_that_matches_a_place_decides() -> None:
    body = Body(
        (
            group(
                "linear", MODELS, {"weight": {"a": 0.1, "b": 0.9}}, layers=(0, 1), roles=("attn",)
            ),
            group("linear", MODELS, {"weight": {"a": 0.2, "b": 0.8}}, layers=(1, 2)),
            group("linear", MODELS, {"weight": {"a": 0.5, "b": 0.5}}),
        )
    )
    shown = found(body)
    assert [shown["attn", layer, "a"] for layer in range(3)] == [0.1, 0.1, 0.2]
    assert [shown["the rest", layer, "b"] for layer in range(3)] == [0.5, 0.8, 0.8]


def test_one_group_for_all_has_no_layers() -> None:
    body = Body((group("linear", MODELS, {"weight": {"a": 0.3, "b": 0.7}}),))
    assert found(body) == {("all tensors", None, "a"): 0.3, ("all tensors", None, "b"): 0.7}


def test_tensors_are_placed_by_their_names() -> None:
    names = ("model.layers.3.self_attn.q_proj.weight", "model.embed_tokens.weight")
    body = Body((group("linear", MODELS, {"weight": {"a": 1.0, "b": 0.0}}, named=names),))
    assert {(kind, layer) for kind, layer, _ in found(body)} == {
        ("self_attn.q_proj", 3),
        ("embed_tokens", None),
    }


def test_a_share_that_both_models_have_is_shown_once() -> None:
    body = Body((group("slerp", MODELS, {"t": 0.4}),))
    assert list(values(body)) == [Value("t", "t", "all tensors", None, 0.4)]


def test_a_known_recipe_is_looked_up_where_the_winner_has_tensors() -> None:
    names = [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(3)]
    names += [f"model.layers.{n}.mlp.up_proj.weight" for n in range(3)]
    names += [f"model.layers.{n}.input_layernorm.weight" for n in range(3)]
    winner = Body(
        tuple(group("linear", MODELS, {"weight": {"a": 0.1, "b": 0.9}}, named=(n,)) for n in names)
    )
    known = Body(
        (
            group("linear", MODELS, {"weight": {"a": 1.0, "b": 0.0}}, layers=(0, 0)),
            group("linear", MODELS, {"weight": {"a": 0.0, "b": 1.0}}, roles=("attn",)),
            group("linear", MODELS, {"weight": {"a": 0.4, "b": 0.6}}, roles=("mlp",)),
        )
    )
    at = known_at(known, list(values(winner)))
    assert at["weight", "a", "self_attn.q_proj", 0] == at["weight", "a", "mlp.up_proj", 0] == 1.0
    assert at["weight", "b", "self_attn.q_proj", 2] == 1.0
    assert at["weight", "b", "mlp.up_proj", 1] == 0.6
    assert ("weight", "a", "input_layernorm", 1) not in at, "no group holds it"
    assert at["weight", "a", "input_layernorm", 0] == 1.0
    back = known_at(winner, list(values(known)))
    assert back == {}, "roles of a recipe are many tensors of the other"
