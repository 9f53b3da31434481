from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from evomerge import config, methods
from evomerge.checkpoint import ModelRef
from evomerge.errors import ConfigError
from evomerge.params import Choice, Genome
from evomerge.recipe import GROUP_ROLES, Recipe, group
from evomerge.space import SWEEP, SearchSpace, parse_space
from evomerge.tensors import OTHER, Place

SOURCES = ("chat", "sea")
TEMPLATE = Recipe(
    ModelRef("base"), {"chat": ModelRef("a"), "sea": ModelRef("b")}, (), "float32", 3, "chat"
)


def fit(content: dict[str, Any], layers: int = 6, folder: str = "memory") -> SearchSpace:
    problems = config.Problems()
    spec = parse_space(config.parse(config.dump(content), folder), SOURCES, problems)
    problems.check()
    assert spec is not None
    return SearchSpace(spec, TEMPLATE, layers)


def places(layers: int) -> list[Place]:
    inside = [Place(layer, role) for layer in range(layers) for role in ("attn", "mlp", "norm")]
    return [*inside, *(Place(None, role) for role in ("embed", "norm", "head"))]


# -- shapes of spaces ----------------------------------------------------------------------------

merging = [name for name in methods.names() if methods.get(name).max_models is None]


@st.composite
def role_lists(draw: st.DrawFn) -> list[str]:
    """Distinct roles that do not overlap."""
    roles = draw(st.lists(st.sampled_from(GROUP_ROLES), min_size=1, unique=True))
    return [role for role in roles if "other" not in roles or role not in OTHER]


@st.composite
def settings_of(draw: st.DrawFn, name: str, names: list[str]) -> Any:
    """Anything a space may say of parameter ``name``: a value, a range, choices, or per model."""
    declared = [p for n in names for p in methods.get(n).parameters if p.name == name]
    domains = [p.domain for p in declared]

    def one() -> Any:
        if any(isinstance(domain, Choice) for domain in domains):
            common = [
                option
                for option in domains[0].options  # type: ignore[union-attr]
                if all(domain.problem(option) is None for domain in domains)
            ]
            return draw(st.sampled_from([common[0], {"choices": common}, {"choices": common[-1:]}]))
        low = max(domain.low for domain in domains)  # type: ignore[union-attr]
        high = min(domain.high for domain in domains)  # type: ignore[union-attr]
        numbers = st.decimals(str(low), str(high), places=2).map(float)
        first, second = sorted(draw(st.tuples(numbers, numbers)))
        return draw(
            st.sampled_from([first, {"range": [first, second]}, {"choices": [second, first]}])
        )

    if all(p.per_model for p in declared) and draw(st.booleans()):
        return {model: one() for model in SOURCES if draw(st.booleans())}
    return one()


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    names = draw(st.lists(st.sampled_from(merging), min_size=1, max_size=3, unique=True))
    content: dict[str, Any] = {
        "methods": names,
        "method_gene": draw(st.sampled_from(["global", "group"])),
    }
    layout: dict[str, Any] = {}
    if draw(st.booleans()):
        layout["roles"] = draw(role_lists())
    how = draw(st.sampled_from(["whole", "blocks", "knots"]))
    if how == "blocks":
        layout["layers"] = draw(st.integers(1, 8))
    if how == "knots":
        content["knots"] = draw(st.integers(2, 5))
    if layout:
        content["groups"] = layout
    known = sorted({p.name for name in names for p in methods.get(name).parameters})
    named = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    content["parameters"] = {name: draw(settings_of(name, names)) for name in named}
    return fit(content, draw(st.integers(1, 7)))


@st.composite
def points(draw: st.DrawFn) -> tuple[SearchSpace, Genome]:
    space = draw(spaces())
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
        assert found is not None and found.models == SOURCES
        method = methods.get(found.method)
        assert found.method in space.spec.methods
        assert method.check(found.values, SOURCES) == found.values  # complete and valid
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
    assert reaches == varies


def _shown(recipe: Recipe, place: Place) -> Any:
    found = recipe.group_of(place)
    assert found is not None
    return found.method, dict(found.values)


@settings(max_examples=40, deadline=None)
@given(space=spaces())
def test_dimensions_are_named_once(space: SearchSpace) -> None:
    names = [dim.name for dim in space.dims]
    assert len(set(names)) == len(names)
    assert all((dim.kind == "real") == (dim.size == 0) for dim in space.dims)


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
        return [_shown(recipe, place)[1]["weight"]["sea"] for place in where]

    assert weights(*(Place(layer, "mlp") for layer in range(5))) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert weights(*(Place(None, role) for role in ("embed", "norm", "head"))) == [0.0, 1.0, 1.0]


def test_a_gene_that_no_chosen_method_reads_is_inactive() -> None:
    space = fit({"methods": ["task_arithmetic", "ties"]})
    index = [dim.name for dim in space.dims].index("density.chat")
    low, high = ((0.25, *(0.1,) * (len(space.dims) - 1)), (0.25, *(0.9,) * (len(space.dims) - 1)))
    assert space.canonical(low)[index] == space.canonical(high)[index] == 0.5
    other = (*low[:index], 0.7, *low[index + 1 :])
    assert space.decode(low).digest == space.decode(other).digest


def test_a_recipe_outside_the_space_has_no_genome() -> None:
    space = fit({"parameters": {"weight": {"range": [0.5, 1.0]}}})
    for weight, inside in ((0.75, True), (0.25, False), (0.123456, False)):
        recipe = space.starts()["uniform"]
        recipe = Recipe(
            recipe.base, recipe.models, (group("task_arithmetic", SOURCES, {"weight": weight}),)
        )
        assert (space.encode(recipe) is not None) == inside
    assert space.encode(space.uniform()) is None
    assert space.encode(space.only("chat")) is None


def test_known_recipes_start_the_search(tmp_path: Path) -> None:
    mine = Recipe(TEMPLATE.base, TEMPLATE.models, (group("ties", SOURCES, {"weight": 0.3}),))
    mine.save(tmp_path / "mine.yaml")
    content = {
        "methods": ["ties"],
        "start": ["parents", "task_arithmetic", "widen", "slerp", "mine.yaml"],
    }
    space = fit(content, folder=str(tmp_path / "space.yaml"))
    starts = space.starts()
    # slerp takes one model: it cannot merge two parents
    sweep = [f"task_arithmetic {weight:g}" for weight in SWEEP]
    assert list(starts) == ["uniform", *sweep, "widen", "mine.yaml"]
    assert starts["mine.yaml"].groups == mine.groups
    assert starts["mine.yaml"].dtype == "float32"  # the run's, not the file's
    assert list(space.references()) == ["base", "chat", "sea"]
    for recipe in (*starts.values(), *space.references().values()):
        assert all(recipe.group_of(place) for place in places(6))


def test_a_start_file_about_other_models_is_refused(tmp_path: Path) -> None:
    other = Recipe(TEMPLATE.base, {"math": ModelRef("m")}, (group("linear", ("math",)),))
    other.save(tmp_path / "other.yaml")
    space = fit({"start": ["other.yaml"]}, folder=str(tmp_path / "space.yaml"))
    with pytest.raises(
        ConfigError, match=r"other\.yaml: its sources are math; this run's are chat, sea"
    ):
        space.starts()


def test_depth_is_placed_once() -> None:
    with pytest.raises(ConfigError, match=r"either knots or groups\.layers"):
        fit({"knots": 3, "groups": {"layers": 2}})
