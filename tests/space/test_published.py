"""Recipes that stand in a space, and those of the presets: generation 0 is what papers give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.calibration import Calibration
from evomerge.checkpoint import ModelRef
from evomerge.errors import ConfigError
from evomerge.recipe import Body, Group, Recipe, group
from evomerge.run.spec import load_run
from evomerge.skeleton import usual
from evomerge.space import SearchSpace, parse_space
from evomerge.suite.spec import parse_suite
from evomerge.tensors import Place

ROOT = Path(__file__).parents[2]
SPACES = ROOT / "search_spaces"
README = (SPACES / "README.md").read_text(encoding="utf-8")
LAYERS = 7


def space_of(content: Any, *sources: str, layers: int = LAYERS) -> SearchSpace:
    """A space fitted to sources of these names, the base and a calibration."""
    file = str(content) if isinstance(content, Path) else "space.yaml"
    text = content.read_text() if isinstance(content, Path) else config.dump(content)
    problems = config.Problems()
    spec = parse_space(config.parse(text, file), sources, problems)
    problems.check()
    assert spec is not None
    data = Calibration("texts.jsonl", None, "0f" * 32)
    models = {name: ModelRef(name) for name in sources}
    template = Recipe(ModelRef("base"), models, Body((), data), "float32", 3, sources[0])
    return SearchSpace(spec, template, layers, usual(layers).places)


def started(recipe: Mapping[str, Any], *sources: str, **more: Any) -> Recipe:
    """What ``{name: it, recipe: ...}`` starts with."""
    content = {"methods": ["ties"], "start": [{"name": "it", "recipe": recipe, **more}]}
    return space_of(content, *(sources or ("chat", "sea"))).starts()["it"]


# -- recipes in a space --------------------------------------------------------------------------


def test_a_group_merges_the_models_that_it_gives_values() -> None:
    recipe = started({"method": "ties", "weight": {"$sea": 0.5}, "density": 0.4})
    assert recipe.groups == (group("ties", ("sea",), {"weight": 0.5, "density": 0.4}),)
    assert (recipe.dtype, recipe.seed, recipe.tokenizer) == ("float32", 3, "chat"), "the run's"
    everyone = started({"method": "ties", "density": 0.4})
    assert everyone.groups == (group("ties", ("chat", "sea"), {"density": 0.4}),)
    listed = started({"method": "dare_ties", "models": ["$sea", "chat"], "weight": 0.3})
    assert listed.groups[0].models == ("sea", "chat"), "in the order that is said"
    base = started({"method": "linear", "weight": {"base": 0.5, "$siblings": 0.25}})
    assert base.groups[0].models == ("chat", "sea", "base")


def test_sources_that_a_sum_leaves_out_weigh_nothing_in_it() -> None:
    """So that the optimizer knows the recipe: it is one of its space."""
    content = {
        "methods": ["task_arithmetic"],
        "start": [{"name": "it", "recipe": {"method": "task_arithmetic", "weight": {"sea": 0.5}}}],
    }
    space = space_of(content, "chat", "sea")
    [found] = space.starts()["it"].groups
    assert found.values["weight"] == {"chat": 0.0, "sea": 0.5}
    assert space.encode(space.starts()["it"]) is not None


def test_a_list_is_a_value_over_depth() -> None:
    """As mergekit reads it: the first number counts outside of the blocks, the last in the last block."""
    recipe = started(
        {
            "groups": [
                {"roles": ["attn"], "method": "slerp", "models": ["$sea"], "t": [0, 0.5, 0.3, 1]},
                {
                    "method": "task_arithmetic",
                    "weight": {"chat": [1, 0.25], "sea": 0.5},
                    "normalize": [True, False],
                },
            ]
        }
    )

    def at(layer: int | None, role: str) -> Group:
        found = recipe.group_of(Place(layer, role))
        assert found is not None
        return found

    t = [at(layer, "attn").values["t"] for layer in range(LAYERS)]
    assert t == pytest.approx([0, 0.25, 0.5, 0.4, 0.3, 0.65, 1])
    weights: list[Any] = [at(layer, "mlp").values["weight"] for layer in range(LAYERS)]
    assert [w["chat"] for w in weights] == pytest.approx([1 - 0.125 * n for n in range(LAYERS)])
    assert {w["sea"] for w in weights} == {0.5}
    assert [at(n, "mlp").values["normalize"] for n in range(LAYERS)] == [True] * 6 + [False]
    for role in ("embed", "norm", "head"):
        assert at(None, role).values["weight"] == {"chat": 1, "sea": 0.5}
    assert sum(each.method == "slerp" for each in recipe.groups) == LAYERS, "there is none outside"


def test_a_recipe_with_a_path() -> None:
    path = [{"layers": [0, 4]}, {"layers": [2, 6], "model": "$sea"}]
    recipe = started({"method": "linear", "path": path})
    assert recipe.body.path and len(recipe.body.path) == 10
    assert recipe.body.path[-1].model == "sea"


def test_a_recipe_by_statistics_takes_the_runs_texts() -> None:
    recipe = started({"method": "fisher"})
    assert recipe.body.data is not None and recipe.body.data.file == "texts.jsonl"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "x", "recipe": {"method": "tise"}}, "space.yaml:3: start.x.groups[0].method: no method 'tise' (did you mean 'ties'?)"),
        ({"name": "x", "recipe": {"method": "ties", "weight": {"chad": 1}}}, "start.x.groups[0].models: no source 'chad' (did you mean 'chat'?)"),
        ({"name": "x", "recipe": {"method": "ties", "density": 3}}, "start.x.groups[0].density: expected a number in [0, 1], found 3"),
        ({"name": "x", "recipe": {"method": "ties", "density": [0.5, 3]}}, "space.yaml:5: start.x.groups[1].density: expected a number in [0, 1], found 3"),
        ({"name": "x", "recipe": {"groups": []}}, "start.x.groups: expected a list of at least one group"),
        ({"name": "x", "recipe": "ties"}, "start.x: expected a mapping of keys, found 'ties'"),
        ({"name": "ties", "recipe": {"method": "ties"}}, "'ties' is the name of another known recipe; choose a label"),
        ({"name": "x"}, "start[0].recipe: missing; expected what a group of a recipe says"),
        ({"name": "x.yaml", "recipe": {"method": "ties"}}, "start[0].name: reads as the name of a recipe file"),
        ({"name": "x", "recipe": {"method": "ties"}, "loses": "score"}, "start[0].loses: unknown key (did you mean 'losses'?)"),
        ({"name": "x", "recipe": {"method": "ties"}, "losses": "score"}, "'x' has losses, and its methods take none"),
        (3, "expected names of known recipes, recipe files, recipes as {name: LABEL, recipe: {method: ...}}, and other runs as {run: FOLDER, best: N}, found 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_recipe_is_said(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of({"start": [entry]}, "chat", "sea")
    assert message in str(caught.value)


def test_one_label_one_recipe() -> None:
    entry = {"name": "x", "recipe": {"method": "ties"}}
    with pytest.raises(ConfigError, match="'x' is the name of another known recipe"):
        space_of({"start": [entry, entry]}, "chat", "sea")


def test_losses_take_their_place_where_a_method_takes_them() -> None:
    recipe = {"groups": [{"roles": ["attn"], "method": "lm_cocktail"}, {"method": "linear"}]}
    content = {"start": [{"name": "it", "recipe": recipe, "losses": "score"}]}
    space = space_of(content, "chat", "sea")
    assert space.losses == {"it": "score"}
    first, second = space.with_losses(
        space.starts()["it"], {"base": 3.0, "chat": 1.25, "sea": 0.0}
    ).groups
    assert first.values["loss"] == {"chat": 1.25, "sea": 0.0}
    assert (first.roles, second) == (("attn",), space.starts()["it"].groups[1])


# -- the presets ---------------------------------------------------------------------------------


def ta(**weight: float) -> Group:
    return group("task_arithmetic", tuple(weight), {"weight": weight})


def ties(density: Any, lambda_: float = 1.0, **weight: float) -> Group:
    values = {"weight": weight, "density": density, "lambda": lambda_}
    return group("ties", tuple(weight), values)


BOTH = {"chat": 1.0, "language": 1.0}
THINK = {"long": 1.0, "short": 1.0}
# preset -> its sources, and what papers give of its generation 0
PUBLISHED: dict[str, tuple[tuple[str, ...], dict[str, Group]]] = {
    "cpt_x_instruct": (
        tuple(BOTH),
        {
            "uniform": group("linear", tuple(BOTH)),
            "chat vector": ta(**BOTH),
            "WIDEN": group("widen", tuple(BOTH)),
            "SLERP 0.7": ta(chat=0.7, language=0.3),
            "Model Stock": group("model_stock", tuple(BOTH), {"clip": False, "guard": "absolute"}),
            "TIES 0.5 at half scale": ties(0.5, 0.5, **BOTH),
            "Breadcrumbs 0.9 at half scale": group(
                "breadcrumbs",
                tuple(BOTH),
                {"density": 0.9, "gamma": 0.05, "lambda": 0.5, "weight": 1.0},
            ),
        },
    ),
    "cpt_onto_instruct": (
        ("language",),
        {
            "BioMistral DARE": group("dare_ties", ("language",), {"weight": 0.5, "density": 0.5}),
            "BioMistral TIES": ties(0.5, language=0.5),
        },
    ),
    "safety_backoff": (
        ("tuned",),
        {
            "linear 0.5": ta(tuned=0.5),
            "SLERP 0.5": group("slerp", ("tuned",)),
            "DARE 0.5": group("dare_linear", ("tuned",), {"weight": 0.5, "density": 0.5}),
        },
    ),
    "soup": (("a", "b", "c"), {"uniform": group("linear", ("a", "b", "c"), {"weight": 1 / 3})}),
    "ta_multi_sft": (("a", "b", "c"), {"sum of the fine-tunes": ta(a=1.0, b=1.0, c=1.0)}),
    "branch_merge": (("a", "b"), {"SLERP": group("multislerp", ("a", "b"))}),
    "sealion_chain": (
        ("stage", "chat", "older", "lite"),
        {
            "Consensus-TA": group(
                "consensus_ta", ("stage", "chat", "older", "lite"), {"k": 2, "lambda": 0.4}
            ),
        },
    ),
    "parallel_sft_dpo": (
        ("sft", "preference"),
        {
            "PAFT, TIES": ties({"sft": 0.1, "preference": 1.0}, sft=1.0, preference=1.0),
            "line 0.25": ta(sft=0.75, preference=0.25),
        },
    ),
    "long2short": (
        tuple(THINK),
        {
            "task arithmetic 0.7": ta(long=0.7, short=0.7),
            "TIES of 1.5B and 7B": ties(1 - 0.8, 1.0, **THINK),
            "TIES of 14B": ties(1 - 0.2, 0.5, **THINK),
            "TIES of 32B": ties(1 - 0.25, 0.55, **THINK),
            "TIES of Qwen3-8B": ties(1 - 0.7, 0.7, **THINK),
            "AdaR1": ta(long=0.8, short=0.2),
        },
    ),
    "balance_two_extremes": (("over", "under"), {"ZJUKLAB": ties(0.8, over=1.0, under=1.0)}),
    "reward_model_domain": (
        ("reward", "domain"),
        {"DogeRM 0.8": group("linear", ("reward", "domain"), {"weight": {"reward": 0.8, "domain": 0.2}})},
    ),
    "direction_groups": (("a", "b"), {"ties": group("ties", ("a", "b"))}),
    "encoder": (("a", "b"), {"SLERP": group("multislerp", ("a", "b"))}),
}  # fmt: skip


def close(ours: Any, theirs: Any) -> bool:
    """Whether values are the same but for rounding."""
    if isinstance(ours, Mapping):
        return ours.keys() == theirs.keys() and all(close(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, float):
        return ours == pytest.approx(theirs, abs=1e-4)
    return bool(ours == theirs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_generation_0_of_a_preset_is_what_its_papers_give(name: str) -> None:
    sources, published = PUBLISHED[name]
    starts = space_of(SPACES / f"{name}.yaml", *sources).starts()
    for label, expected in published.items():
        [found] = starts[label].groups
        assert (found.method, found.models) == (expected.method, expected.models), label
        assert close(found.values, expected.values), label


def test_a_ramp_holds_and_goes_down() -> None:
    space = space_of(SPACES / "layer_ramp.yaml", "reasoning", "language", layers=10)
    ramp = space.starts()["Typhoon 2 R1"]
    weights: list[Any] = []
    for layer in range(10):
        found = ramp.group_of(Place(layer, "attn"))
        assert found is not None and set(found.values["density"].values()) == {1.0}  # type: ignore[union-attr]
        weights.append(found.values["weight"])
    assert [w["reasoning"] for w in weights[:7]] == [0.75] * 7
    assert weights[-1] == {"reasoning": 0.25, "language": 0.75}
    assert all(sum(w.values()) == pytest.approx(1) for w in weights)


def test_the_table_of_presets() -> None:
    """Every file, the roles that it asks for, and a suite that there is."""
    cells = (row.split("|")[1:-1] for row in README.splitlines() if row.startswith("| `"))
    rows = [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in cells]
    rows = [row for row in rows if row[0][0].endswith(".yaml")]
    assert sorted(row[0][0] for row in rows) == sorted(p.name for p in SPACES.glob("*.yaml"))
    for (file, *_), _, roles, suites in rows:
        content = config.read(SPACES / file).plain
        assert list(content.get("roles", ())) == roles, file
        header = re.match(r"(#.*\n)+", (SPACES / file).read_text(encoding="utf-8"))
        assert header, f"{file} says in its head what it is"
        for suite in suites:
            if suite.startswith("{"):
                objective = config.parse(suite)
                problems = config.Problems()
                whole = config.parse(f"objectives: {{x: {suite}}}", str(SPACES / "x.yaml"))
                parse_suite(whole, None, problems)
                assert objective.plain and not problems.found
            else:
                assert (ROOT / "fitness" / f"{suite}.yaml").is_file(), (file, suite)


@pytest.mark.parametrize("size", ["0.5", "1.8", "4", "7", "14"])
def test_runs_of_the_papers_models(size: str) -> None:
    """As far as they can be read without a hub."""
    spec = load_run(ROOT / "runs" / f"qwen1.5-sailor-{size}b")
    models = {name: spec.model(name).text for name in spec.names}
    assert models == {
        "base": f"Qwen/Qwen1.5-{size}B",
        "chat": f"Qwen/Qwen1.5-{size}B-Chat",
        "sea": f"sail/Sailor-{size}B",
    }
    space = SearchSpace(spec.space, spec.template("bfloat16"), 24, usual(24).places)
    assert list(space.starts()) == [*PUBLISHED["cpt_x_instruct"][1], "ties"]
    assert spec.suite.objectives[1]["floor"].of == "chat"
