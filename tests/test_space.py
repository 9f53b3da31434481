from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import evomerge.space as space_module
from evomerge import config, methods, params, seeds
from evomerge.calibration import Calibration
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import ConfigError
from evomerge.lines import LINES, PARAMETERS, Lines
from evomerge.params import ALL, Choice, Dim, Domain, Genome, Integer, Real
from evomerge.recipe import GROUP_ROLES, Body, Recipe, group, uncovered
from evomerge.registry import PARTS
from evomerge.skeleton import usual
from evomerge.space import SWEEP, SearchSpace, parse_space, simplex
from evomerge.space import spec as spec_module
from evomerge.space.fit import Fit
from evomerge.space.parts import Part
from evomerge.tensors import OTHER, PROJECTIONS, Place

SOURCES = ("chat", "sea")
TEMPLATE = Recipe(
    ModelRef("base"),
    {"chat": ModelRef("a"), "sea": ModelRef("b")},
    Body((), Calibration("texts.jsonl", None, "0f" * 32)),
    "float32",
    3,
    "chat",
)
THREE = replace(TEMPLATE, models={**TEMPLATE.models, "math": ModelRef("c")})
MADE = [usual(layers) for layers in range(1, 8)]  # before anything is drawn
PRESETS = sorted(Path(__file__).parents[1].glob("search_spaces/*.yaml"))


def fit(
    content: dict[str, Any], layers: int = 6, folder: str = "memory", template: Recipe = TEMPLATE
) -> SearchSpace:
    problems = config.Problems()
    node = config.parse(config.dump(content), folder)
    spec = parse_space(node, tuple(template.models), problems)
    problems.check()
    assert spec is not None
    return SearchSpace(spec, template, layers, usual(layers).places)


def names_in(layers: int) -> tuple[str, ...]:
    """The tensors of a Llama."""
    return tuple(usual(layers).places)


def places(layers: int) -> list[Place]:
    return list(usual(layers).places.values())


# -- shapes of spaces ----------------------------------------------------------------------------


@st.composite
def role_lists(draw: st.DrawFn) -> list[str]:
    """Distinct roles that do not overlap."""
    roles = draw(st.lists(st.sampled_from(GROUP_ROLES), min_size=1, unique=True))
    covered = {*(OTHER if "other" in roles else ())}
    covered |= {part for role in roles for part in PROJECTIONS.get(role, ())}
    return [role for role in roles if role not in covered]


SMOOTH = [name for name in methods.names() if methods.get(name).smooth]


def setting(draw: st.DrawFn, domains: Sequence[Domain], *, choices: bool = True) -> Any:
    """Anything a space may say of one value in all of ``domains``."""
    if any(isinstance(domain, Choice) for domain in domains):
        common = [
            option
            for option in domains[0].options  # type: ignore[union-attr]
            if all(domain.problem(option) is None for domain in domains)
        ]
        return draw(st.sampled_from([common[0], {"choices": common}, {"choices": common[-1:]}]))
    low = max(domain.low for domain in domains)  # type: ignore[union-attr]
    high = min(domain.high for domain in domains)  # type: ignore[union-attr]
    steps = [low, *(low + (high - low) * step / 20 for step in range(1, 20)), high]
    numbers: st.SearchStrategy[float] = st.sampled_from(steps)
    if any(isinstance(domain, Integer) for domain in domains):
        numbers = st.integers(int(low), int(high))
    first, second = sorted(draw(st.tuples(numbers, numbers)))
    options: list[Any] = [first, {"range": [first, second]}]
    return draw(st.sampled_from(options + [{"choices": [second, first]}] * choices))


@st.composite
def settings_of(draw: st.DrawFn, name: str, names: list[str], sources: Sequence[str]) -> Any:
    """Anything a space may say of parameter ``name``: a value, a range, choices, or per model."""
    declared = [p for n in names for p in methods.get(n).parameters if p.name == name]
    domains = [p.domain for p in declared]
    if all(p.per_model for p in declared) and draw(st.booleans()):
        return {model: setting(draw, domains) for model in sources if draw(st.booleans())}
    return setting(draw, domains)


@st.composite
def value_spaces(
    draw: st.DrawFn, sources: Sequence[str], pool: Sequence[str] = methods.names()
) -> dict[str, Any]:
    """Methods of ``pool`` and their parameters, with everything that may be said of them."""
    names = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3, unique=True))
    content: dict[str, Any] = {
        "methods": names,
        "method_gene": draw(st.sampled_from(["global", "group"])),
    }
    layout: dict[str, Any] = {}
    if draw(st.booleans()):
        layout["roles"] = draw(role_lists())
    how = draw(st.sampled_from(["whole", "blocks", "knots", "tensor"]))
    if how == "blocks":
        layout["layers"] = draw(st.integers(1, 8))
    if how == "knots":
        content["knots"] = draw(st.integers(2, 5))
    if how == "tensor":
        content["groups"] = "tensor"
    elif layout:
        content["groups"] = layout
    if draw(st.booleans()):
        models = {
            name: draw(st.permutations([*sources, "base"]))[: draw(st.integers(2, 4))]
            for name in names
        }
        content["models"] = draw(st.sampled_from([models, models[names[0]]]))
    parameters = [p for name in names for p in methods.get(name).parameters]
    known = {p.name for p in parameters}
    if any(p.name == "weight" and p.per_model for p in parameters) and draw(st.booleans()):
        content["weights"] = "simplex"
        known.remove("weight")
    if known:
        named = draw(st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True))
        content["parameters"] = {name: draw(settings_of(name, names, sources)) for name in named}
    return content


@st.composite
def swap_spaces(draw: st.DrawFn, sources: Sequence[str]) -> dict[str, Any]:
    """Layer swaps."""
    swap: dict[str, Any] = {"outside": draw(st.sampled_from(["outer", "inner"]))}
    for name in ("bottom", "top", "transition"):
        if draw(st.booleans()):
            swap[name] = setting(draw, [Integer(0, 6, 1)], choices=False)
    strengths = [Real(0, 2, 1)]
    match draw(st.sampled_from(["silent", "one", "each"])):
        case "one":
            swap["strength"] = setting(draw, strengths, choices=False)
        case "each":
            swap["strength"] = {"inner": setting(draw, strengths, choices=False)}
    outer, inner = draw(st.permutations(sources))[:2]
    swap.update(draw(st.sampled_from([{}, {"outer": outer}, {"outer": outer, "inner": inner}])))
    return {"layer_swap": swap}


@st.composite
def paths_of(draw: st.DrawFn, sources: Sequence[str]) -> Any:
    """What a space may say of layer paths."""
    found: dict[str, Any] = {"rounds": draw(st.integers(1, 3)), "runs": draw(st.integers(2, 8))}
    if draw(st.booleans()):
        found["models"] = draw(st.permutations(["merge", "base", *sources]))[
            : draw(st.integers(1, 3))
        ]
    if draw(st.booleans()):
        found["most"] = draw(st.integers(1, 12))
    if draw(st.booleans()):
        found["scale"] = draw(st.sampled_from([True, 0.9, {"range": [0.5, 1.5]}]))
    return draw(st.sampled_from([True, found]))


@st.composite
def spaces(draw: st.DrawFn, smooth: bool = False) -> SearchSpace:
    """Any space; ``smooth``: of methods that have slopes."""
    template = draw(st.sampled_from([TEMPLATE, THREE]))
    sources = tuple(template.models)
    if smooth:
        content = draw(value_spaces(sources, SMOOTH))
    else:
        content = draw(st.one_of(value_spaces(sources), swap_spaces(sources)))
    if draw(st.booleans()):
        lines = {p.name: setting(draw, [p.domain]) for p in PARAMETERS if draw(st.booleans())}
        lines["head"] = draw(st.sampled_from(["deep", "shallow"]))
        content["lines"] = draw(st.sampled_from([True, lines]))
    kept = draw(st.lists(st.sampled_from(["embed", "head"]), unique=True))
    content["keep"] = {role: draw(st.sampled_from(("base", *sources))) for role in kept}
    if draw(st.booleans()):
        content["path"] = draw(paths_of(sources))
    deepest = 2 if content.get("groups") == "tensor" else 7
    return fit(content, draw(st.integers(1, deepest)), template=template)


@st.composite
def points(draw: st.DrawFn, smooth: bool = False) -> tuple[SearchSpace, Genome]:
    space = draw(spaces(smooth))
    note(f"{space.spec} fitted to {space.layers} layers")
    size = len(space.dims)
    return space, tuple(draw(st.lists(st.floats(0, 1), min_size=size, max_size=size)))


@settings(max_examples=80, deadline=None)
@given(point=points())
def test_a_recipe_has_one_genome_and_a_genome_one_recipe(
    point: tuple[SearchSpace, Genome],
) -> None:
    space, genome = point
    recipe = space.decode(genome)
    canonical = space.canonical(genome)
    assert space.encode(recipe) == canonical
    assert space.decode(canonical) == recipe
    assert space.canonical(canonical) == canonical
    # and through the journal, or a file
    again = Recipe.from_plain(recipe.plain)
    assert space.encode(again) == canonical


@settings(max_examples=80, deadline=None)
@given(point=points())
def test_every_tensor_is_covered_within_the_ranges(point: tuple[SearchSpace, Genome]) -> None:
    space, genome = point
    recipe = space.decode(genome)
    assert (recipe.dtype, recipe.seed, recipe.tokenizer) == ("float32", 3, "chat")
    for place in places(space.layers):
        found = recipe.group_of(place)
        assert found is not None
        if donor := space.spec.parts.get("keep", {}).get(place.role):
            assert found == group("passthrough", (donor,), roles=(place.role,))
            continue
        method = methods.get(found.method)
        assert found.method in space.spec.methods
        assert method.arity_problem(len(found.models), True) is None
        assert method.check(found.values, found.models) == found.values  # complete and valid
        if "weights" in space.spec.parts and isinstance(
            weights := found.values.get("weight"), dict
        ):
            assert math.isclose(sum(weights.values()), 1.0) and min(weights.values()) >= 0
    # a recipe that a person may read is one that evomerge reads
    assert Recipe.parse(config.parse(recipe.to_yaml())) == recipe


@settings(max_examples=60, deadline=None)
@given(point=points(), data=st.data())
def test_every_gene_reaches_a_tensor(
    point: tuple[SearchSpace, Genome], data: st.DataObject
) -> None:
    """A gene that nothing reads would cost the optimizer a dimension."""
    space, genome = point
    if not space.dims:
        return
    index = data.draw(st.integers(0, len(space.dims) - 1))
    varies = reaches = False
    for number in range(len(space.spec.methods)):
        choice = (number + 0.5) / len(space.spec.methods)
        genes = [
            choice if dim.name.startswith("method") else gene
            for dim, gene in zip(space.dims, genome, strict=True)
        ]
        low, high = (space.decode((*genes[:index], end, *genes[index + 1 :])) for end in (0.0, 1.0))
        varies |= low != high
        reaches |= any(_shown(low, place) != _shown(high, place) for place in places(space.layers))
        reaches |= low.body.path != high.body.path
    assert reaches == varies


def _shown(recipe: Recipe, place: Place) -> Any:
    found = recipe.group_of(place)
    assert found is not None
    return found.method, found.models, dict(found.values), found.lines


@settings(max_examples=40, deadline=None)
@given(space=spaces())
def test_dimensions_are_named_once(space: SearchSpace) -> None:
    names = [dim.name for dim in space.dims]
    assert len(set(names)) == len(names)
    assert all((dim.kind == "real") == (dim.size == 0) for dim in space.dims)


# -- slopes --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(point=points(smooth=True), data=st.data())
def test_a_gene_pulls_as_all_that_it_moves(
    point: tuple[SearchSpace, Genome], data: st.DataObject
) -> None:
    """Of a sum over coefficients, each with a factor of its own, ``pull`` is the derivative."""
    space, genome = point
    index = data.draw(st.sampled_from([None, *(n for n, s in enumerate(space.smooth) if s)]))
    check_pull(space, genome, () if index is None else (index,), data.draw(st.integers(0, 9)))


KNOTS = {"knots": 3, "groups": {"roles": ["attn", "other"]}}


@pytest.mark.parametrize(
    "content",
    [
        {"methods": ["linear"], "weights": "simplex", **KNOTS},
        {"methods": ["task_arithmetic"], "weights": "simplex", "groups": "tensor", "lines": True},
        {"methods": ["slerp", "linear"], "method_gene": "group", "lines": {"alpha": 0.3}, **KNOTS},
        {"methods": ["task_arithmetic"], "keep_from": "sea", "lines": {"head": "shallow"}, **KNOTS},
    ],
)  # fmt: skip
def test_all_genes_of_a_space_pull(content: dict[str, Any]) -> None:
    space = fit(content, 4, template=THREE)
    assert any(space.smooth)
    genome = tuple(seeds.unit("pull", n) for n in range(len(space.dims)))
    check_pull(space, genome, range(len(space.dims)), 0)


def test_a_gene_is_smooth_if_a_method_is_and_pulls_where_that_merges() -> None:
    content = {
        "methods": ["task_arithmetic", "ties"],
        "parameters": {"weight": {"range": [0, 1.5]}},
    }
    space = fit(content, 4)
    weights = [n for n, dim in enumerate(space.dims) if dim.name.startswith("weight")]
    assert weights and all(space.smooth[axis] for axis in weights)
    for gene, pulls in ((0.25, True), (0.75, False)):  # the cells of the two methods
        genome = [0.4] * len(space.dims)
        (at,) = (n for n, dim in enumerate(space.dims) if dim.kind == "categorical")
        genome[at] = gene
        point = space.canonical(tuple(genome))
        pull = space.pull(point, factors(space, point, 0))
        assert all(bool(pull[axis]) is pulls for axis in weights)


def check_pull(space: SearchSpace, genome: Genome, axes: Iterable[int], salt: int) -> None:
    step = 1e-4
    # ends of ranges are no place for differences, and decimals no place for small steps
    inner = tuple(0.01 + 0.98 * gene for gene in genome)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(params, "DIGITS", 12)
        patch.setattr(simplex, "UNITS", 10**12)
        at = space.canonical(inner)
        found = factors(space, at, salt)
        pull = space.pull(at, found)
        assert len(pull) == len(space.smooth) == len(space.dims)
        assert not any(value for value, s in zip(pull, space.smooth, strict=True) if not s)
        for axis in axes:
            if not (space.smooth[axis] and step < at[axis] < 1 - step):
                continue
            above, below = (
                total(space.decode((*at[:axis], at[axis] + by, *at[axis + 1 :])), found)
                for by in (step, -step)
            )
            slope = (above - below) / (2 * step)
            assert pull[axis] == pytest.approx(slope, rel=1e-4, abs=1e-5), space.dims[axis]


def factors(
    space: SearchSpace, genome: Genome, salt: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Tensor -> coefficient of the recipe that is smooth -> model -> a number."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    recipe = space.decode(genome)
    for place in places(space.layers):
        own = recipe.group_of(place)
        assert own is not None
        by_parameter = found.setdefault(place.tensor, {})
        for name in (*methods.get(own.method).smooth, LINES):
            value = own.values.get(name)
            by_parameter[name] = {
                model: seeds.unit("factor", salt, place.tensor, name, model) - 0.2
                for model in (value if isinstance(value, dict) else (ALL,))
            }
    return found


def total(recipe: Recipe, found: dict[str, dict[str, dict[str, float]]]) -> float:
    """The sum of factor times coefficient."""
    whole = 0.0
    for name, by_parameter in found.items():
        place = usual(layers_of(found)).places[name]
        own = recipe.group_of(place)
        assert own is not None
        for parameter, by_model in by_parameter.items():
            value: Any = own.scale(place) if parameter == LINES else own.values[parameter]
            for model, factor in by_model.items():
                whole += factor * (value[model] if isinstance(value, dict) else value)
    return whole


def layers_of(names: Iterable[str]) -> int:
    return 1 + max(int(name.split(".")[2]) for name in names if ".layers." in name)


@settings(max_examples=60, deadline=None)
@given(space=spaces())
def test_levels_of_detail_are_nested(space: SearchSpace) -> None:
    assert all(len(level.classes) == len(space.dims) for level in space.levels)
    for coarse, fine in pairwise(space.levels):
        within = set(zip(fine.classes, coarse.classes, strict=True))
        assert len(within) == len(set(fine.classes)), "a class is part of two"
    assert space.levels[-1].classes == tuple(range(len(space.dims)))
    if space.spec.tensors:
        assert [level.name for level in space.levels] == [
            "model",
            "group",
            "layer x role",
            "tensor",
        ]


def test_values_of_a_tensor_are_refined_from_values_of_the_model() -> None:
    space = fit({"groups": "tensor", "parameters": {"weight": {"sea": 1.0}}}, layers=4)
    by_level = {level.name: level.classes for level in space.levels}
    assert [dim.name for dim in space.dims][:2] == [
        "weight.chat@embed_tokens",
        "weight.chat@0.input_layernorm",
    ]
    assert len(space.dims) == 4 * 9 + 3
    assert {name: len(set(classes)) for name, classes in by_level.items()} == {
        # roles of two halves, and three tensors outside; of four layers; every one
        "model": 1, "group": 2 * 3 + 3 - 1, "layer x role": 4 * 3 + 3, "tensor": 39,
    }  # fmt: skip


def test_a_space_of_tensors_holds_what_coarser_ones_do() -> None:
    tensors = fit({"groups": "tensor"})
    for content in ({}, {"knots": 3}, {"groups": {"layers": 2, "roles": ["q", "mlp", "other"]}}):
        coarse = fit(content)
        recipe = coarse.decode(tuple(seeds.unit("coarse", n) for n in range(len(coarse.dims))))
        genome = tensors.encode(recipe)
        assert genome is not None
        same = tensors.decode(genome)
        assert all(_shown(same, place) == _shown(recipe, place) for place in places(6))
        assert coarse.encode(same) is None or coarse.spec.is_fine
    with pytest.raises(ValueError, match="fitted to their names"):
        SearchSpace(tensors.spec, TEMPLATE, 6)


def test_finer_roles_have_groups_of_their_own() -> None:
    groups = {"layers": 2, "roles": ["q", "down", "mlp"]}
    with pytest.raises(ConfigError, match="'down' is part of 'mlp'; name one of the two"):
        fit({"groups": groups})
    space = fit({"groups": {**groups, "roles": ["q", "down", "other"]}}, 4)
    recipe = space.decode((0.5,) * len(space.dims))
    assert [(g.layers, g.roles) for g in recipe.groups[:3]] == [
        ((0, 1), ("q",)), ((0, 1), ("down",)), ((0, 1), ("other",)),
    ]  # fmt: skip
    assert recipe.groups[-1].roles is None


# -- single facts --------------------------------------------------------------------------------


def names_of(content: dict[str, Any], layers: int = 6) -> list[str]:
    return [dim.name for dim in fit(content, layers).dims]


def test_a_space_names_departures_only() -> None:
    assert names_of({}) == ["weight.chat", "weight.sea"]
    assert names_of({"methods": ["ties"]}) == [
        "weight.chat", "weight.sea", "density.chat", "density.sea", "lambda",
    ]  # fmt: skip
    fixed = {"methods": ["ties"], "parameters": {"density": {"chat": 0.5}, "lambda": 1.0}}
    assert names_of(fixed) == ["weight.chat", "weight.sea", "density.sea"]
    assert names_of({"parameters": {"lambda": {"range": [0.5, 1]}}})[-1] == "lambda"
    assert names_of({"methods": ["task_arithmetic", "linear"]})[0] == "method"


def test_blocks_cut_the_depth_and_a_rest_takes_what_lies_outside() -> None:
    space = fit({"groups": {"layers": 4, "roles": ["attn", "mlp", "other"]}}, layers=10)
    recipe = space.decode((0.5,) * len(space.dims))
    assert [(g.layers, g.roles) for g in recipe.groups[:4]] == [
        ((0, 1), ("attn",)), ((0, 1), ("mlp",)), ((0, 1), ("other",)), ((2, 4), ("attn",)),
    ]  # fmt: skip
    assert (recipe.groups[-1].layers, recipe.groups[-1].roles) == (None, None)
    assert len(space.dims) == 2 * 13


def test_embedding_and_head_have_no_depth() -> None:
    """As roles of their own they get one set of values, not one a block."""
    roles = {"roles": ["attn", "mlp", "embed", "head"]}
    assert [n for n in names_of({"groups": {"layers": 3, **roles}}) if "chat" in n] == [
        *(f"weight.chat@{block}.{role}" for block in ("0-1", "2-3", "4-5") for role in ("attn", "mlp")),
        "weight.chat@embed", "weight.chat@head", "weight.chat@rest",
    ]  # fmt: skip
    assert [n for n in names_of({"knots": 2, "groups": {"roles": ["head", "embed"]}}) if "chat" in n] == [
        "weight.chat@head", "weight.chat@embed", "weight.chat@0", "weight.chat@5",
    ]  # fmt: skip


def test_knots_are_interpolated_over_depth() -> None:
    space = fit({"knots": 2, "parameters": {"weight": {"chat": 1.0, "sea": {"range": [0, 1]}}}}, 5)
    recipe = space.decode((0.0, 1.0))

    def weights(*where: Place) -> list[Any]:
        return [_shown(recipe, place)[2]["weight"]["sea"] for place in where]

    assert weights(*(Place(layer, "mlp") for layer in range(5))) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert weights(*(Place(None, role) for role in ("embed", "norm", "head"))) == [0.0, 1.0, 1.0]


def test_a_gene_that_no_chosen_method_reads_is_inactive() -> None:
    space = fit({"methods": ["task_arithmetic", "ties"]})
    index = [dim.name for dim in space.dims].index("density.chat")
    low, high = ((0.25, *(0.1,) * (len(space.dims) - 1)), (0.25, *(0.9,) * (len(space.dims) - 1)))
    assert space.canonical(low)[index] == space.canonical(high)[index] == 0.5
    other = (*low[:index], 0.7, *low[index + 1 :])
    assert space.decode(low).digest == space.decode(other).digest


def test_a_recipe_with_other_data_is_another() -> None:
    space = fit({"methods": ["fisher"]})
    recipe = space.decode((0.5,) * len(space.dims))
    assert space.encode(recipe) is not None
    for data in (None, Calibration("texts.jsonl", None, "1e" * 32)):
        assert space.encode(replace(recipe, body=replace(recipe.body, data=data))) is None
    renamed = Calibration("/elsewhere/texts.jsonl", None, "0f" * 32)
    assert space.encode(replace(recipe, body=replace(recipe.body, data=renamed))) is not None


def test_a_recipe_outside_the_space_has_no_genome() -> None:
    space = fit({"parameters": {"weight": {"range": [0.5, 1.0]}}})
    for weight, inside in ((0.75, True), (0.25, False), (0.123456, False)):
        recipe = space.starts()["uniform"]
        recipe = Recipe(
            recipe.base,
            recipe.models,
            Body((group("task_arithmetic", SOURCES, {"weight": weight}),)),
        )
        assert (space.encode(recipe) is not None) == inside
    assert space.encode(space.uniform()) is None
    assert space.encode(space.only("chat")) is None


def test_known_recipes_start_the_search(tmp_path: Path) -> None:
    mine = Recipe(TEMPLATE.base, TEMPLATE.models, Body((group("ties", SOURCES, {"weight": 0.3}),)))
    mine.save(tmp_path / "mine.yaml")
    content = {
        "methods": ["ties"],
        "start": ["parents", "task_arithmetic", "widen", "mine.yaml"],
    }
    space = fit(content, folder=str(tmp_path / "space.yaml"))
    starts = space.starts()
    sweep = [f"task_arithmetic {weight:g}" for weight in SWEEP]
    assert list(starts) == ["uniform", *sweep, "widen", "mine.yaml"]
    assert starts["mine.yaml"].groups == mine.groups
    assert starts["mine.yaml"].dtype == "float32"  # the run's, not the file's
    assert list(space.references()) == ["base", "chat", "sea"]
    for recipe in (*starts.values(), *space.references().values()):
        assert all(recipe.group_of(place) for place in places(6))


def test_a_known_recipe_that_is_impossible_is_said_and_not_dropped() -> None:
    with pytest.raises(ConfigError, match="start: slerp takes exactly 1 of the source models"):
        fit({"methods": ["ties"], "start": ["uniform", "slerp"]})
    assert fit({"methods": ["ties"]}).spec.start == (
        *("parents", "uniform", "task_arithmetic", "ties"),
    )
    swaps = fit({"layer_swap": True, "lines": True}).spec.start
    assert swaps == ("parents", "uniform", "task_arithmetic", "layer_swap", "lines")
    space = fit({"methods": ["slerp", "lm_cocktail"]})
    assert {"slerp", "lm_cocktail"}.isdisjoint(space.starts()), "nobody asked for them"
    assert space.spec.left_out == {
        "slerp": "slerp takes exactly 1 of the source models, found 2",
        "lm_cocktail": "with its defaults it is uniform",
    }
    for other in (
        {"parameters": {"normalize": False}},
        {"models": {"linear": ["sea", "chat"]}},
    ):
        assert "linear" in fit({"methods": ["linear"], **other}).starts(), "it is no average"
    asked = fit({"methods": ["lm_cocktail"], "start": ["lm_cocktail"]})
    assert "lm_cocktail" in asked.starts() and not asked.spec.left_out


def test_a_start_file_about_other_models_is_refused(tmp_path: Path) -> None:
    other = Recipe(TEMPLATE.base, {"math": ModelRef("m")}, Body((group("linear", ("math",)),)))
    other.save(tmp_path / "other.yaml")
    space = fit({"start": ["other.yaml"]}, folder=str(tmp_path / "space.yaml"))
    with pytest.raises(
        ConfigError, match=r"other\.yaml: its sources are math; this run's are chat, sea"
    ):
        space.starts()


def starting_from(
    content: dict[str, Any], template: Recipe, **merges: Mapping[str, Body]
) -> SearchSpace:
    """A space that starts from other runs with these merges by label."""
    start = [{"run": f"../{run}"} for run in merges]
    spec = fit({**content, "start": start}, template=template).spec
    found = {f"../{run}": bodies for run, bodies in merges.items()}
    return SearchSpace(spec, template, 6, usual(6).places, given=found)


def test_merges_of_other_runs_are_known_recipes() -> None:
    body = Body((group("task_arithmetic", SOURCES, {"weight": {"chat": 0.5, "sea": 0.75}}),))
    drawn = Body((group("ties", SOURCES, {"weight": 0.3}),))
    content = {"methods": ["task_arithmetic", "ties"]}
    space = starting_from(content, THREE, one={"#4 of one": body, "#5 of one": drawn})
    starts = space.starts()
    assert list(starts) == ["uniform", "#4 of one", "#5 of one"]
    joined = starts["#4 of one"].groups[0]
    assert joined.models == ("chat", "sea", "math")
    assert joined.values["weight"] == {"chat": 0.5, "sea": 0.75, "math": 0.0}
    assert space.encode(starts["#4 of one"]) is not None
    assert starts["#5 of one"].body == drawn, "a weight of 0 is not the same as being left out"
    assert space.encode(starts["#5 of one"]) is None, "scored like a recipe file that has no genome"

    narrow = {**content, "parameters": {"weight": {"range": [0.25, 1]}}}
    assert starting_from(narrow, THREE, one={"#4 of one": body}).starts()["#4 of one"].body == body
    again = starting_from(
        content, TEMPLATE, one={"#4 of one": body}, two={"#4 of one": drawn, "#9": body}
    )
    assert list(again.starts()) == ["uniform", "#4 of one", "#4 of one (../two)"], "once each"


def test_merges_by_statistics_of_other_texts_are_refused() -> None:
    fisher = Body((group("fisher", SOURCES),), Calibration("theirs.txt", None, "1e" * 32))
    with pytest.raises(ConfigError, match=r"#4 of one: its statistics are of other texts .*theirs"):
        starting_from({"methods": ["fisher"]}, TEMPLATE, one={"#4 of one": fisher}).starts()
    same = replace(fisher, data=TEMPLATE.body.data)
    starts = starting_from({"methods": ["fisher"]}, TEMPLATE, one={"#4 of one": same}).starts()
    assert starts["#4 of one"].body == same


def test_depth_is_placed_once() -> None:
    with pytest.raises(ConfigError, match=r"either knots or groups\.layers"):
        fit({"knots": 3, "groups": {"layers": 2}})


class Halves(Part):
    """A part that draws all groups: one weight for each half of the depth."""

    GROUPS = True

    def __init__(self, settings: Any, fit: Fit) -> None:
        self._half, self._sources = fit.layers // 2, fit.sources
        self.dims = (Dim("low", "real"), Dim("high", "real"))

    @staticmethod
    def parse(node: Any, where: str, sources: Any, problems: Any) -> Any:
        return node.plain

    def draw(self, genes: Genome, body: Body) -> Body:
        low, high = (round(gene, 4) for gene in genes)
        weights = {"weight": low}, {"weight": high}
        first = group("task_arithmetic", self._sources, weights[0], layers=(0, self._half - 1))
        return replace(body, groups=(first, group("task_arithmetic", self._sources, weights[1])))

    def read(self, recipe: Recipe) -> Any:
        found = [recipe.group_of(place) for place in (Place(0, "mlp"), Place(None, "norm"))]
        yield tuple(each.values["weight"]["chat"] for each in found if each)  # type: ignore[call-overload, index]


def test_a_part_that_draws_all_groups_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With those that change groups, before them whatever its name; not with others of its kind."""
    known = {**PARTS.built_in, "zhalves": "test_space:Halves"}
    monkeypatch.setattr(space_module, "PARTS", replace(PARTS, built_in=known))
    monkeypatch.setattr(spec_module, "PARTS", replace(PARTS, built_in=known))
    monkeypatch.setitem(sys.modules, "test_space", sys.modules[__name__])
    space = fit({"zhalves": True, "lines": True, "keep_from": "sea"})
    assert [dim.name for dim in space.dims] == ["low", "high", "lines.alpha", "lines.beta"]
    recipe = space.decode((0.25, 0.75, 0.5, 0.5))
    assert all(each.lines for each in recipe.groups if each.method == "task_arithmetic")
    assert space.encode(recipe) == space.canonical((0.25, 0.75, 0.5, 0.5))
    for other, says in (
        ({"layer_swap": True}, "draws all groups, as"),
        ({"weights": "simplex"}, "weights: `zhalves` decides this itself"),
        ({"methods": ["ties"]}, "methods: `zhalves` decides this itself"),
    ):
        with pytest.raises(ConfigError, match=says):
            fit({"zhalves": True, **other})


# -- which models take part ----------------------------------------------------------------------


def test_a_method_that_takes_fewer_models_chooses_them() -> None:
    groups = {"layers": 2}
    space = fit({"methods": ["passthrough"], "groups": groups, "parameters": {"scale": 1.0}})
    assert [d.name for d in space.dims] == ["models@0-2", "models@3-5", "models@rest"]
    recipe = space.decode((0.0, 1.0, 0.0))
    assert [g.models for g in recipe.groups] == [("chat",), ("sea",), ("chat",)]
    # one gene for all methods that choose among the same sets, another for other sets
    content = {"methods": ["slerp", "nearswap", "nuslerp", "ties"]}
    names = [d.name for d in fit(content, template=THREE).dims]
    assert names[:3] == ["method", "models.slerp", "models.nuslerp"]
    assert "models" in [d.name for d in fit(content).dims]  # two sources: nuslerp takes both


def test_models_names_who_takes_part() -> None:
    models = {"slerp": ["sea"], "ties": ["math", "chat"]}
    space = fit({"methods": ["slerp", "ties"], "models": models}, template=THREE)
    assert "models" not in [d.name for d in space.dims]
    assert not [d.name for d in space.dims if d.name.endswith(".sea")]
    assert {
        space.decode((g,) + (0.5,) * (len(space.dims) - 1)).groups[0].models for g in (0, 1)
    } == {
        ("sea",),
        ("math", "chat"),
    }
    assert space.starts()["slerp"].groups[0].models == ("sea",)
    everywhere = fit({"methods": ["ties"], "models": ["base", "sea"]}, template=THREE)
    assert everywhere.decode((0.5,) * len(everywhere.dims)).groups[0].models == ("base", "sea")


# -- weights on the simplex ----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(genes=st.lists(st.floats(0, 1), min_size=0, max_size=15))
def test_shares_are_whole_units_that_sum_to_one(genes: list[float]) -> None:
    units = simplex.decode(genes)
    assert sum(units) == simplex.UNITS and min(units) >= 0
    again = simplex.encode(units)
    assert simplex.decode(again) == units
    assert simplex.encode(simplex.decode(again)) == again
    # and an optimizer's nine decimals are enough
    assert simplex.decode([round(gene, 9) for gene in again]) == units


@given(sizes=st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(any))
def test_every_vertex_edge_and_ratio_is_reached(sizes: list[int]) -> None:
    units = simplex.blend([[size * simplex.UNITS for size in sizes]], [1 / sum(sizes)])
    assert simplex.decode(simplex.encode(units)) == units


def test_a_soup_has_a_gene_less_than_sources() -> None:
    space = fit({"methods": ["linear"], "weights": "simplex"}, template=THREE)
    assert [d.name for d in space.dims] == ["weight.chat", "weight.sea"]
    assert space.decode((0.5, 0.5)).groups[0].values["weight"] == {
        "chat": 0.3333, "sea": 0.3334, "math": 0.3333,
    }  # fmt: skip
    assert space.encode(space.uniform()) == space.canonical((0.5, 0.5))
    # with two models the gene is the weight; where nothing is left, a gene is inactive
    two = fit({"methods": ["linear"], "weights": "simplex"})
    assert two.decode((0.3,)).groups[0].values["weight"] == {"chat": 0.3, "sea": 0.7}
    assert space.canonical((1.0, 0.1)) == (1.0, 0.5)


def test_knots_blend_weights_that_sum_to_one() -> None:
    space = fit({"methods": ["linear"], "weights": "simplex", "knots": 2}, 3)
    recipe = space.decode((0.0, 0.5))
    shares = [_shown(recipe, Place(layer, "mlp"))[2]["weight"]["chat"] for layer in range(3)]
    assert shares == [0.0, 0.25, 0.5]


# -- lines, layer swap, keep ---------------------------------------------------------------------


def test_lines_are_two_genes_whatever_else_there_is() -> None:
    space = fit({"knots": 3, "lines": True})
    assert [d.name for d in space.dims][-2:] == ["lines.alpha", "lines.beta"]
    assert len(space.dims) == 2 * 3 + 2
    recipe = space.decode((0.5,) * 6 + (0.4, 1.0))
    assert {g.lines for g in recipe.groups} == {Lines(0.4, 1.0)}
    # a line that changes nothing is no line, so plain recipes are inside
    plain = fit({"knots": 3}).decode((0.5,) * 6)
    genome = space.encode(plain)
    assert genome is not None and space.decode(genome) == plain
    assert fit({"knots": 3, "lines": {"alpha": 0.5}}).encode(plain) is None


def test_a_layer_swap_takes_outer_blocks_from_one_parent() -> None:
    swap = {"outer": "sea", "inner": "chat", "bottom": {"range": [0, 9]}, "top": {"range": [0, 3]}}
    space = fit({"layer_swap": {**swap, "transition": 1, "strength": {"inner": 1.5}}}, layers=8)
    assert [d.name for d in space.dims] == ["bottom", "top", "strength.outer"]
    recipe = space.decode((0.3, 0.3, 0.5))
    assert [(g.layers, dict(g.values["weight"])) for g in recipe.groups] == [  # type: ignore[arg-type]
        ((0, 1), {"sea": 1.0}),
        ((2, 2), {"sea": 0.5, "chat": 0.75}),
        ((3, 5), {"chat": 1.5}),
        ((6, 6), {"sea": 0.5, "chat": 0.75}),
        ((7, 7), {"sea": 1.0}),
        (None, {"sea": 1.0}),
    ]
    # counts beyond the depth leave the inner parent its block
    deep = space.decode((1.0, 1.0, 0.5))
    assert [(g.layers, tuple(g.models)) for g in deep.groups[:-1]] == [
        ((0, 6), ("sea",)),
        ((7, 7), ("chat",)),
    ]
    assert len(fit({"layer_swap": True}, template=THREE).dims) == 6


def test_what_the_outer_parent_does_not_give_is_inactive() -> None:
    space = fit({"layer_swap": {"outside": "inner"}}, template=THREE)
    names = [d.name for d in space.dims]
    nothing = [0.9 if name in ("parents", "strength.inner") else 0.0 for name in names]
    genome = dict(zip(names, space.canonical(tuple(nothing)), strict=True))
    assert (genome["strength.outer"], genome["transition"]) == (0.5, 0.5)
    assert space.decode(tuple(nothing)).used == ("base", "sea")  # the last pair: sea inside math


def test_kept_roles_come_from_one_model_in_every_known_recipe() -> None:
    space = fit({"keep": {"embed": "sea", "head": "base"}, "knots": 2})
    recipes = [space.decode((0.5,) * len(space.dims)), *space.starts().values()]
    for recipe in recipes:
        for role, model in (("embed", "sea"), ("head", "base")):
            found = recipe.group_of(Place(None, role))
            assert found is not None and (found.method, found.models) == ("passthrough", (model,))
    # groups for what is kept would be genes for nothing
    roles = {"roles": ["attn", "mlp", "norm", "embed"]}
    assert names_of({"groups": roles, "keep_from": "chat"}) == [
        f"weight.{model}@{role}" for role in ("attn", "mlp", "norm") for model in SOURCES
    ]


def test_forms_have_known_recipes() -> None:
    space = fit({"layer_swap": True, "lines": True, "start": ["layer_swap", "lines"]}, layers=32)
    starts = space.starts()
    assert list(starts) == [
        "uniform",
        "layer_swap chat around sea",
        "layer_swap sea around chat",
        "lines",
    ]
    blocks = [(g.layers, g.models) for g in starts["layer_swap sea around chat"].groups]
    assert blocks == [
        ((0, 4), ("sea",)), ((5, 5), ("sea", "chat")), ((6, 28), ("chat",)),
        ((29, 29), ("sea", "chat")), ((30, 31), ("sea",)), (None, ("sea",)),
    ]  # fmt: skip
    assert space.encode(starts["layer_swap sea around chat"]) is not None
    line = starts["lines"].groups[0]
    assert (line.lines, line.values["weight"]) == (Lines(0.5, 0.5), {"chat": 1.0, "sea": 1.0})
    soup = fit({"weights": "simplex", "lines": True})
    assert soup.encode(soup.starts()["lines"]) is not None
    assert soup.starts()["lines"].groups[0].lines == Lines(1.0, 1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"methods": ["ties"], "models": ["chat", "se"]}, "models: no source 'se' (did you mean 'sea'?)"),
        ({"methods": ["ties"], "models": {"tise": ["sea"]}}, "models.tise: unknown key (did you mean 'ties'?)"),
        ({"methods": ["ties"], "models": {"ties": ["sea", "sea"]}}, "models.ties: 'sea' stands twice"),
        ({"methods": ["karcher"], "models": []}, "karcher takes at least"),
        ({"methods": ["slerp"], "weights": "simplex"}, "weights: no method here has a weight for each model"),
        ({"weights": "simplex", "parameters": {"weight": 1}}, "remove parameters.weight"),
        ({"weights": "simple"}, "did you mean 'simplex'?"),
        ({"lines": {"alpha": {"range": [0]}}}, "lines.alpha.range: expected [low, high], found [0]"),
        ({"lines": {"gamma": 1}}, "lines.gamma: unknown key"),
        ({"lines": 3}, "lines: expected true, or a mapping of keys, found 3"),
        ({"methods": ["ties"], "path": "yes please"}, "path: expected true, or a mapping of keys, found 'yes please'"),
        ({"keep": {"embed": "chta"}}, "keep.embed: no model 'chta' (did you mean 'chat'?)"),
        ({"keep": {"attn": "chat"}}, "keep.attn: unknown key; known here: embed, head"),
        ({"keep_from": "see"}, "keep_from: no model 'see' (did you mean 'sea'?)"),
        ({"keep_from": "sea", "keep": {"head": "sea"}}, "keep: `keep_from` decides this itself"),
        ({"layer_swap": {"outer": "chat", "inner": "chat"}}, "layer_swap.inner: 'chat' is the outer parent"),
        ({"layer_swap": {"outer": "chad"}}, "layer_swap.outer: no source 'chad' (did you mean 'chat'?)"),
        ({"layer_swap": {"bottom": 0.5}}, "layer_swap.bottom: expected a whole number, found 0.5"),
        ({"layer_swap": {"top": {"choices": [1, 2]}}}, "layer_swap.top: expected a number or a range"),
        ({"layer_swap": {"strength": {"outer": "big"}}}, "strength.outer: expected a number, found 'big'"),
        ({"layer_swap": True, "knots": 3}, "knots: `layer_swap` decides this itself"),
    ],
)  # fmt: skip
def test_what_is_no_space_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(content)
    assert says in str(caught.value)


def test_a_range_may_reach_beyond_what_is_searched_by_default() -> None:
    space = fit({"methods": ["task_arithmetic"], "parameters": {"weight": {"range": [-1, 3]}}})
    ends = {gene: space.decode((gene,) * len(space.dims)) for gene in (0.0, 1.0)}
    weights = [ends[gene].body.groups[0].values["weight"] for gene in ends]
    assert weights == [{"chat": -1.0, "sea": -1.0}, {"chat": 3.0, "sea": 3.0}]
    assert space.encode(ends[0.0]) == (0.0,) * len(space.dims)


# -- the presets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_fits_the_embedded_family(path: Path) -> None:
    models = {name: ModelRef(f"embedded:{name}") for name in ("base", *SOURCES)}
    base = Checkpoint.open(models.pop("base"))
    template = Recipe(ModelRef("embedded:base"), models, TEMPLATE.body, base.dtype)
    problems, node = config.Problems(), config.read(path)
    roles = {
        role: (name,) for role, name in zip(node.plain.get("roles", ()), SOURCES, strict=False)
    }
    spec = parse_space(node, SOURCES, problems, roles)
    problems.check()
    assert spec is not None
    space = SearchSpace(spec, template, base.layers, base.places)
    assert space.dims
    genome = tuple(seeds.unit("preset", path.stem, n) for n in range(len(space.dims)))
    for recipe in (space.decode(genome), *space.starts().values()):
        assert uncovered(recipe, base.places) == []
    assert any(space.encode(recipe) for recipe in space.starts().values())


# -- averages of the sources ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"methods": ["linear"], "weights": "simplex"},
        {"methods": ["task_arithmetic"]},
        {"methods": ["ties", "task_arithmetic"], "groups": {"layers": 2}, "lines": True},
        {"methods": ["linear"], "knots": 3, "keep": {"embed": "base"}},
    ],
)
@given(shares=st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any))
def test_a_blend_is_the_average_of_the_sources(content: dict[str, Any], shares: list[int]) -> None:
    space = fit(content, 4, template=THREE)
    weights = {n: share / sum(shares) for n, share in zip(space.sources, shares, strict=True)}
    genome = space.blend(weights)
    assert genome is not None and space.canonical(genome) == genome
    for found in space.decode(genome).groups:
        if found.method != "passthrough":
            values = found.values["weight"]
            assert isinstance(values, dict)
            assert values == pytest.approx(weights, abs=1e-4)
            assert sum(values.values()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    "content",
    [
        {"methods": ["ties"]},
        {"layer_swap": {"outer": "chat", "inner": "sea"}},
        {"methods": ["linear"], "parameters": {"weight": {"range": [0.2, 1]}}},
        {"methods": ["linear"], "models": {"linear": ["chat", "sea"]}},
    ],
)
def test_a_space_without_averages_has_no_blend(content: dict[str, Any]) -> None:
    space = fit(content, 4, template=THREE)
    weights = dict.fromkeys(space.sources, 0.0) | {space.sources[0]: 1.0}
    assert space.blend(weights) is None
