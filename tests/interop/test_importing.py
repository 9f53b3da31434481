from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from evomerge import config, merge
from evomerge.cli import main
from evomerge.errors import ConfigError
from evomerge.interop import from_mergekit, load_recipe, to_mergekit
from evomerge.interop.settings import Branch
from evomerge.recipe import GROUP_ROLES, Group, Recipe, group
from evomerge.skeleton import usual

MakeRecipe = Callable[..., Recipe]
Import = Callable[..., Recipe]
SOURCES = ("chat", "sea")


@pytest.fixture
def write(tmp_path: Path, family: dict[str, Path]) -> Callable[[str], Path]:
    """Writes a mergekit file; {chat} is that model's folder."""

    def make(text: str) -> Path:
        path = tmp_path / "mergekit.yaml"
        path.write_text(textwrap.dedent(text).format(**family).lstrip(), encoding="utf-8")
        return path

    return make


@pytest.fixture
def imported(write: Callable[[str], Path]) -> Import:
    def make(text: str, layers: int | None = None) -> Recipe:
        return Recipe.parse(config.parse(from_mergekit(write(text), layers)))

    return make


def values(recipe: Recipe, parameter: str) -> dict[tuple[int | None, str], Any]:
    """(layer, role) -> value."""
    found = {}
    for place in PLACES.values():
        own = recipe.group_of(place)
        assert own is not None
        found[place.layer, place.role] = own.values[parameter]
    return found


# -- what mergekit does --------------------------------------------------------------------------


def test_a_plain_file_is_one_group(imported: Import, family: dict[str, Path]) -> None:
    recipe = imported("""
        models:
          - model: {base}
          - {{model: {chat}, parameters: {{weight: 0.6}}}}
          - {{model: {sea}, parameters: {{density: 0.25}}}}
        merge_method: ties
        base_model: {base}
        parameters: {{weight: 0.9, density: 0.5, int8_mask: true}}
        dtype: float16
        tokenizer_source: {sea}
        """)
    assert recipe.base and recipe.base.text == str(family["base"])
    assert {name: ref.text for name, ref in recipe.models.items()} == {
        name: str(family[name]) for name in SOURCES
    }
    given = {"weight": {"chat": 0.6, "sea": 0.9}, "density": {"chat": 0.5, "sea": 0.25}}
    assert recipe.groups == (group("ties", SOURCES, given),)
    assert (recipe.dtype, recipe.tokenizer) == ("float16", "sea")


def test_final_norm_and_head_take_the_first_value_of_a_list(imported: Import) -> None:
    t = values(
        imported("""
        slices: [{{sources: [{{model: {base}, layer_range: [0, 4]}}, {{model: {chat}, layer_range: [0, 4]}}]}}]
        merge_method: slerp
        base_model: {base}
        parameters: {{t: [{{filter: self_attn, value: [0, 0.3, 0.9]}}, {{value: [0.2, 0.8]}}]}}
        dtype: bfloat16
        """),
        "t",
    )
    assert [t[layer, "attn"] for layer in range(4)] == pytest.approx([0, 0.2, 0.5, 0.9])
    assert [t[layer, "mlp"] for layer in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert {t[None, role] for role in ("embed", "norm", "head")} == {0.2}


def test_a_slice_of_one_layer_takes_the_last_value(imported: Import) -> None:
    scale = values(
        imported("""
        slices:
          - sources: [{{model: {chat}, layer_range: [0, 1], parameters: {{scale: [0.5, 0.9]}}}}]
          - {{sources: [{{model: {chat}, layer_range: [1, 4]}}], parameters: {{scale: [1.1, 1.2]}}}}
        merge_method: passthrough
        """),
        "scale",
    )
    assert [scale[layer, "mlp"] for layer in range(4)] == pytest.approx([0.9, 1.1, 1.15, 1.2])
    assert (scale[None, "embed"], scale[None, "norm"], scale[None, "head"]) == (0.5, 1.1, 1.1)


def test_the_nearer_level_and_the_first_filter_win(imported: Import) -> None:
    weight = values(
        imported("""
        slices:
          - parameters: {{weight: [{{filter: mlp, value: 0.4}}, {{filter: layers.1, value: 0.5}}]}}
            sources:
              - {{model: {chat}, layer_range: [0, 4], parameters: {{weight: {{filter: self_attn, value: 0.1}}}}}}
              - {{model: {sea}, layer_range: [0, 4], parameters: {{weight: "1e-1"}}}}
        merge_method: linear
        parameters: {{weight: 0.7}}
        """),
        "weight",
    )
    assert {weight[layer, "attn"]["chat"] for layer in range(4)} == {0.1}
    assert {weight[layer, "mlp"]["chat"] for layer in range(4)} == {0.4}
    assert [weight[layer, "norm"]["chat"] for layer in range(4)] == [0.7, 0.5, 0.7, 0.7]
    assert {each["sea"] for each in weight.values()} == {0.1}


def test_a_listed_base_is_merged_where_mergekit_merges_it(imported: Import) -> None:
    linear = imported("""
        models: [{{model: {chat}}}, {{model: {sea}}}]
        base_model: {base}
        merge_method: linear
        parameters: {{weight: 1}}
        """)
    assert linear.groups[0].models == ("chat", "sea", "base")
    around = imported("""
        models: [{{model: {chat}}}, {{model: {sea}}}]
        base_model: {base}
        merge_method: nuslerp
        parameters: {{weight: 1}}
        """)
    assert around.groups[0].models == SOURCES
    assert around.groups[0].values["tolerance"] == 1e-16  # which is mergekit's own


def test_what_is_not_carried_over_is_said(write: Callable[[str], Path]) -> None:
    text = from_mergekit(
        write("""
        models: [{{model: {chat}}}, {{model: {sea}}}]
        merge_method: linear
        parameters: {{weight: 1}}
        chat_template: chatml
        """)
    )
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert "# chat_template is not carried over: set it in the merged folder yourself" in comments
    assert any("any of the models; here it is that of chat" in line for line in comments)
    assert Recipe.parse(config.parse(text)).dtype == "float32"  # that of the models


def test_models_need_not_be_at_hand(imported: Import) -> None:
    recipe = imported("""
        models: [{{model: some/model@v2}}, {{model: other/model+some/adapter}}]
        merge_method: linear
        parameters: {{weight: [{{filter: self_attn, value: 0.5}}, {{value: 1}}]}}
        """)
    assert [ref.text for ref in recipe.models.values()] == [
        "some/model@v2",
        "other/model+some/adapter",
    ]
    assert list(recipe.models) == ["model", "adapter"]
    assert [group.roles for group in recipe.groups] == [("attn",), None]


def test_filters_may_tell_apart_tensors_of_one_role(imported: Import) -> None:
    text = """
        models: [{{model: some/model}}, {{model: other/model}}]
        merge_method: linear
        parameters: {{weight: [{{filter: {filter}, value: 0.5}}, {{value: 1}}]}}
        """
    head = "model.layers.0."

    def found(filter: str, layers: int | None = None) -> list[Any]:
        groups = imported(text.replace("{filter}", filter), layers).groups
        return [(each.layers, each.roles, each.tensors) for each in groups]

    assert found("q_proj") == [(None, ("q",), None), (None, None, None)]  # whatever the depth is
    assert found("_proj") == [(None, ("attn", "mlp"), None), (None, None, None)]
    assert found("o_proj", 2) == [(None, ("o",), None), (None, None, None)]
    assert found("layers.0.mlp.down", 2) == [
        ((0, 0), ("down",), None), ((1, 1), ("down",), None), (None, None, None),
    ]  # fmt: skip
    assert found("input_layernorm", 1) == [
        (None, None, (f"{head}input_layernorm.weight",)),
        (None, None, None),
    ]
    with pytest.raises(ConfigError, match=r"norms of a block differ, and .* give --layers N"):
        found("input_layernorm")


def test_models_may_be_spelled_out_and_stand_in_a_module(imported: Import) -> None:
    recipe = imported("""
        modules:
          default:
            models:
              - model: {{model: {{path: some/model, revision: v2}}, lora: {{path: some/adapter}}}}
              - {{model: other/model, parameters: {{weight: 2}}}}
            parameters: {{weight: 3}}
        merge_method: linear
        parameters: {{weight: 4}}
        """)
    texts = [ref.text for ref in recipe.models.values()]
    assert texts == ["some/model@v2+some/adapter", "other/model"]
    assert recipe.groups[0].values["weight"] == {"adapter": 3.0, "model": 2.0}


def test_the_depth_is_looked_up_on_the_hub(imported: Import, hub: dict[str, str]) -> None:
    recipe = imported("""
        models: [{{model: tiny/chat}}, {{model: tiny/sea}}]
        merge_method: linear
        parameters: {{weight: [0, 1]}}
        """)
    assert [group.layers for group in recipe.groups] == [*((n, n) for n in range(4)), None]
    assert {name: ref.text for name, ref in recipe.models.items()} == {n: hub[n] for n in SOURCES}


def test_lists_need_the_depth(imported: Import) -> None:
    text = """
        models: [{{model: a/b}}, {{model: c/d}}]
        merge_method: linear
        parameters: {{weight: [0, 1]}}
        """
    with pytest.raises(ConfigError, match="give --layers N"):
        imported(text)
    assert [group.layers for group in imported(text, 2).groups] == [(0, 0), (1, 1), None]


def test_a_union_and_rules_for_tokens_are_carried_over(
    imported: Import, family: dict[str, Path]
) -> None:
    text = PLAIN + "parameters: {{weight: 1}}\n"
    assert imported(text + "tokenizer_source: union\n").plain["tokenizer"] == "union"
    assert imported(text + "tokenizer: {{}}\n").plain["tokenizer"] == "union"  # mergekit's default
    recipe = imported(
        text
        + """tokenizer:
  source: {chat}
  pad_to_multiple_of: 64
  tokens:
    <|x|>: {{source: {{kind: zero}}}}
    <|y|>: {{source: {{model: {{path: {sea}}}}}, force: true}}
    <|z|>: {{source: {{kind: model_token, model: {chat}, token_id: 7}}}}
"""
    )
    assert recipe.plain["tokenizer"] == {
        "source": "chat",
        "pad_to_multiple_of": 64,
        "tokens": {
            "<|x|>": {"source": {"kind": "zero"}},
            "<|y|>": {"source": "sea", "force": True},
            "<|z|>": {"source": {"kind": "model_token", "model": "chat", "token_id": 7}},
        },
    }
    empty = imported(text + "tokenizer: {{source: base, tokens: null, pad_to_multiple_of: null}}\n")
    assert empty.plain["tokenizer"] == "chat"


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6), st.integers(2, 40))
def test_lists_are_interpolated_from_end_to_end(listed: list[float], layers: int) -> None:
    branch = Branch(None, tuple(listed))
    found = [branch.at(layer / (layers - 1)) for layer in range(layers)]
    assert (found[0], found[-1]) == (listed[0], listed[-1])
    assert all(min(listed) - 1e-12 <= value <= max(listed) + 1e-12 for value in found)  # type: ignore[operator]


# -- there and back ------------------------------------------------------------------------------

RECIPES = {
    "one group": [group("ties", SOURCES, {"weight": {"chat": 0.3, "sea": 0.7}})],
    "blocks and roles": [
        group("task_arithmetic", SOURCES, {"weight": 0.2}, layers=(0, 1), roles=["attn"]),
        group("task_arithmetic", SOURCES, {"weight": 0.3}, layers=(2, 3), roles=["attn"]),
        group("task_arithmetic", SOURCES, {"weight": 0.4}, roles=["mlp"]),
        group("task_arithmetic", SOURCES, {"weight": 0.5}),
    ],
    "projections": [
        group("task_arithmetic", SOURCES, {"weight": 0.2}, layers=(0, 2), roles=["q"]),
        group("task_arithmetic", SOURCES, {"weight": 0.3}, layers=(3, 3), roles=["q"]),
        group("task_arithmetic", SOURCES, {"weight": 0.4}, roles=["k", "down"]),
        group("task_arithmetic", SOURCES, {"weight": 0.5}),
    ],
    "norms of a block": [
        group(
            "task_arithmetic",
            SOURCES,
            {"weight": 0.2},
            named=[f"model.layers.{n}.input_layernorm.weight" for n in (1, 2)],
        ),
        group("task_arithmetic", SOURCES, {"weight": 0.3}, roles=["embed"]),
        group("task_arithmetic", SOURCES, {"weight": 0.5}),
    ],
    "methods by projection": [
        group("ties", SOURCES, layers=(0, 0), roles=["q", "down"]),
        group("linear", SOURCES, layers=(1, 3), roles=["q", "down"]),
        group(
            "linear",
            SOURCES,
            {"weight": 0.5},
            named=["model.layers.2.post_attention_layernorm.weight"],
        ),
        group("passthrough", ("chat",)),
    ],
    "methods": [
        group("ties", SOURCES, layers=(0, 0), roles=["attn", "mlp"]),
        group("linear", SOURCES, layers=(1, 1), roles=["attn", "mlp"]),
        group("slerp", ("sea",), layers=(2, 3), roles=["attn", "mlp"]),
        group("passthrough", ("chat",)),
    ],
}


@pytest.mark.parametrize("groups", RECIPES.values(), ids=RECIPES)
def test_an_exported_recipe_comes_back(
    tmp_path: Path, family: dict[str, Path], recipe_of: MakeRecipe, groups: list[Group]
) -> None:
    recipe = recipe_of(family, *groups, dtype="bfloat16")
    path = tmp_path / "exported.yaml"
    path.write_text(to_mergekit(recipe))
    assert Recipe.parse(config.parse(from_mergekit(path))).groups == recipe.groups
    assert Recipe.parse(config.parse(from_mergekit(path))).digest == recipe.digest


PLACES = usual(4).places
NAMES = tuple(PLACES)
WEIGHTS = st.integers(-5, 20).map(lambda n: n / 10)


@st.composite
def groups(draw: st.DrawFn, *, everywhere: bool) -> Group:
    """A group of a method that both know; ``everywhere``: of every layer and role."""
    method = draw(st.sampled_from(("linear", "task_arithmetic", "ties", "slerp", "passthrough")))
    models = (
        draw(st.permutations(SOURCES))
        if method in ("linear", "task_arithmetic", "ties")
        else ("chat",)
    )
    given: dict[str, Any] = {"t": abs(draw(WEIGHTS)) / 2} if method == "slerp" else {}
    if len(models) > 1:
        given["weight"] = {model: draw(WEIGHTS) for model in models}
    if method == "ties" and min(given["weight"].values()) < 0:
        given["normalize"] = "signed"
    if everywhere:
        return group(method, models, given)
    low = draw(st.integers(0, 3))
    layers = draw(st.sampled_from([None, (low, draw(st.integers(low, 3)))]))
    roles = draw(st.lists(st.sampled_from(GROUP_ROLES), unique=True, min_size=1))
    named = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    where = draw(
        st.sampled_from([{}, {"roles": roles}, {"named": named}, {"roles": roles, "named": named}])
    )
    return group(method, models, given, layers=layers, **where)


def everywhere(group: Group) -> Group:
    return replace(group, layers=None, roles=None, tensors=None)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_is_exported_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    family: dict[str, Path],
    recipe_of: MakeRecipe,
    data: st.DataObject,
) -> None:
    some = data.draw(st.lists(groups(everywhere=False), max_size=4))
    recipe = recipe_of(family, *some, data.draw(groups(everywhere=True)))
    path = tmp_path_factory.mktemp("exported") / "exported.yaml"
    path.write_text(to_mergekit(recipe))
    back = Recipe.parse(config.parse(from_mergekit(path)))
    for place in list(PLACES.values())[:-1]:  # the head is tied
        ours, theirs = recipe.group_of(place), back.group_of(place)
        assert ours is not None
        assert theirs is not None
        assert everywhere(ours) == everywhere(theirs)
    assert to_mergekit(back) == path.read_text()


# -- refusals ------------------------------------------------------------------------------------

PLAIN = "merge_method: linear\nmodels: [{{model: {chat}}}, {{model: {sea}}}]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PLAIN + "parameters: {{wieght: 1}}\n", "unknown key (did you mean 'weight'?)"),
        (PLAIN + "parameters: {{weight: 1}}\ndtpye: float32\n", "(did you mean 'dtype'?)"),
        (PLAIN + "parameters: {{normalize: maybe}}\n", "normalize: expected true or false"),
        (PLAIN, "weight: missing of "),
        (
            PLAIN + "parameters: {{weight: 1}}\ntokenizer: {{tokens: {{x: {{force: true}}}}}}\n",
            "tokenizer.tokens.x.source: missing; expected a model, or a kind",
        ),
        (
            PLAIN + "parameters: {{weight: 1}}\ntokenizer: {{tokens: {{x: {{source: {base}}}}}}}\n",
            "base is none of the models that are merged",
        ),
        (PLAIN + "parameters: {{weight: 1}}\ndtype: int64\n", "found 'int64'"),
        (PLAIN + "slices: []\n", "expected one of models, slices and modules"),
        ("merge_method: linaer\nmodels: [{{model: {chat}}}]\n", "no method 'linaer' (did you mean 'linear'?)"),
        ("merge_method: slerp\nmodels: [{{model: {chat}}}]\nparameters: {{t: 1}}\n", "slerp needs the base model"),
        (
            "merge_method: linear\nmodels: [{{model: {chat}}}, {{model: {chat}}}]\nparameters: {{weight: 1}}\n",
            "stands twice",
        ),
        (
            "merge_method: ties\nbase_model: {base}\nmodels: [{{model: {chat}, parameters: {{weight: 1, normalize: true}}}}]\n",
            "is one value for all models of ties; mergekit ignores it here",
        ),
        (
            "merge_method: passthrough\nslices: [{{sources: [{{model: {chat}, layer_range: [1, 5]}}]}}]\n",
            "slices[0]: layers [1, 5): the models have 4",
        ),
        (
            "merge_method: linear\nslices: [{{sources: [{{model: {chat}, layer_range: [0, 2]}}, "
            "{{model: {sea}, layer_range: [2, 4]}}]}}]\nparameters: {{weight: 1}}\n",
            "a recipe merges each layer with the same layer of the other models",
        ),
        (
            "merge_method: linear\nslices:\n"
            "  - {{sources: [{{model: {chat}, layer_range: [0, 4]}}], parameters: {{weight: 0.5, normalize: false}}}}\n"
            "  - {{sources: [{{model: {chat}, layer_range: [3, 4]}}], parameters: {{weight: 0.7, normalize: false}}}}\n",
            "layer 3 is merged in 2 ways",
        ),
        (
            "merge_method: passthrough\nslices:\n"
            "  - sources: [{{model: {chat}, layer_range: [0, 4]}}]\n"
            "  - sources: [{{model: {chat}, layer_range: [3, 4], parameters: {{scale: [{{filter: o_proj, value: 0.005}}, "
            "{{filter: down_proj, value: 0.005}}, {{value: 1.0}}]}}}}]\n"
            "  - sources: [{{model: {chat}, layer_range: [3, 4], parameters: {{scale: [{{filter: o_proj, value: 0.7}}, "
            "{{filter: down_proj, value: 0.7}}, {{value: 1.0}}]}}}}]\n",
            "layer 3: a hop's scale: expected a number in [0.01, 100], found 200.0",
        ),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_say_is_refused(imported: Import, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(text)
    assert says in str(caught.value)


def test_problems_are_found_all_at_once_with_their_lines(write: Callable[[str], Path]) -> None:
    path = write(
        "merge_method: ties\nmodels:\n  - model: {chat}\n    paramters: {{weight: 1}}\nbase: {base}\n"
    )
    with pytest.raises(ConfigError) as caught:
        from_mergekit(path)
    first, second = caught.value.problems
    assert first.startswith(
        f"{path}:4: models[0].paramters: unknown key (did you mean 'parameters'?)"
    )
    assert second.startswith(f"{path}:5: base: unknown key")


# -- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_recipe(
    write: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(PLAIN + "parameters: {{weight: 0.5}}\n")
    out = tmp_path / "recipe.yaml"
    assert main(["import", str(path), "-o", str(out)]) == 0
    assert Recipe.load(out).groups[0].values["weight"] == {"chat": 0.5, "sea": 0.5}
    assert main(["import", str(path), "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["import", str(path)]) == 0
    assert capsys.readouterr().out == out.read_text()
    assert main(["import", str(tmp_path / "none.yaml")]) == 2
    assert main(["import", str(path), "--layers", "0"]) == 2


def test_a_block_expansion_goes_back_out(tmp_path: Path) -> None:
    """Copies that add nothing, as in LLaMA Pro, between blocks of one model as they are: in, out, and in again."""
    file = tmp_path / "expanded.yaml"
    file.write_text("""
slices:
  - sources: [{model: "embedded:chat", layer_range: [0, 2]}]
  - sources:
      - model: "embedded:chat"
        layer_range: [1, 2]
        parameters: {scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]}
  - sources: [{model: "embedded:chat", layer_range: [2, 4]}]
merge_method: passthrough
dtype: float32
""")
    recipe, _ = load_recipe(file)
    again = tmp_path / "again.yaml"
    again.write_text(to_mergekit(recipe))
    through, _ = load_recipe(again)
    expected = load_file(merge(recipe, tmp_path / "one") / "model.safetensors")
    found = load_file(merge(through, tmp_path / "two") / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert not found["model.layers.2.self_attn.o_proj.weight"].any()
