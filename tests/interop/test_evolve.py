from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import ConfigError
from evomerge.interop import from_mergekit
from evomerge.run.spec import RunSpec, load_run
from evomerge.space import SearchSpace

Import = Callable[[str], RunSpec]


@pytest.fixture
def imported(tmp_path: Path, family: dict[str, Path]) -> Import:
    """Imports a mergekit-evolve file and loads the run.yaml that it becomes."""

    def make(text: str) -> RunSpec:
        path, run = tmp_path / "evolve.yaml", tmp_path / "run.yaml"
        path.write_text(textwrap.dedent(text).format(**family).lstrip(), encoding="utf-8")
        run.write_text(from_mergekit(path), encoding="utf-8")
        return load_run(run)

    return make


EVOLVE = """
    genome:
      models: [{chat}, {sea}]
      merge_method: dare_ties
      base_model: {base}
      tokenizer_source: {sea}
      layer_granularity: 2
      filters: [self_attn, mlp]
    tasks:
      - {{name: thai, weight: 0.4}}
      - {{name: thai, metric: "perplexity,none", weight: -2}}
      - plain
    limit: 25
    num_fewshot: 3
    """


def test_genes_become_groups_and_roles(imported: Import, family: dict[str, Path]) -> None:
    spec = imported(EVOLVE)
    assert spec.base.text == str(family["base"])
    assert {name: ref.text for name, ref in spec.sources.items()} == {
        name: str(family[name]) for name in ("chat", "sea")
    }
    assert spec.tokenizer == "sea"
    space = SearchSpace(spec.space, spec.template("bfloat16"), 4)
    weights = [dim.name for dim in space.dims if dim.name.startswith("weight.chat")]
    assert weights == [
        f"weight.chat@{site}"
        for site in ("0-1.attn", "0-1.mlp", "0-1.other", "2-3.attn", "2-3.mlp", "2-3.other", "rest")
    ]
    kinds = {dim.name.partition(".")[0] for dim in space.dims}
    assert kinds == {"weight", "density"}  # the rest is fixed to what mergekit-evolve sets
    values = space.decode((0.5,) * len(space.dims)).groups[0].values
    assert (values["normalize"], values["rescale"], values["lambda"]) == (True, True, 1.0)


def test_tasks_become_objectives(imported: Import) -> None:
    suite = imported(EVOLVE).suite
    found = {
        o["name"]: (o["scorer"], o["metric"], o["direction"], o["weight"]) for o in suite.objectives
    }
    assert found == {
        "thai": ("thai", "acc,none", "auto", 0.4),
        "thai-perplexity": ("thai", "perplexity,none", "minimize", 2.0),
        "plain": ("plain", "acc,none", "auto", 1.0),
    }
    assert suite.combination == "mean"
    assert suite.candidate == (25, 25)
    assert suite.scorers[0].options == {
        "num_fewshot": 3,
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
    }


@pytest.mark.parametrize(
    ("filters", "roles"),
    [
        ("[q_proj, mlp]", ("q", "mlp", "k", "v", "o", "other")),
        ("[down_proj, proj]", ("down", "attn", "gate", "up", "other")),
        ("[mlp, up_proj]", ("mlp", "attn", "other")),
    ],
)
def test_filters_of_projections_become_finer_roles(
    imported: Import, filters: str, roles: tuple[str, ...]
) -> None:
    assert imported(EVOLVE.replace("[self_attn, mlp]", filters)).space.roles == roles


def test_smooth_becomes_knots(imported: Import) -> None:
    spec = imported(EVOLVE.replace("filters: [self_attn, mlp]", "smooth: true"))
    assert (spec.space.knots, spec.space.blocks) == (2, None)


def test_slerp_goes_from_one_model_to_the_other(imported: Import, family: dict[str, Path]) -> None:
    spec = imported("""
        genome: {{models: [{chat}, {sea}], merge_method: slerp}}
        tasks: [plain]
        """)
    assert spec.base.text == str(family["chat"])
    space = SearchSpace(spec.space, spec.template("bfloat16"), 4)
    assert [dim.name for dim in space.dims] == ["t"]


def test_what_is_not_carried_over_is_said(tmp_path: Path, family: dict[str, Path]) -> None:
    path = tmp_path / "evolve.yaml"
    extra = "random_init: true\nshuffle: true\n"
    text = (
        textwrap.dedent(EVOLVE)
        .format(**family)
        .replace("filters: [", "filters: [q_proj, input_l, up_proj, ")
        .replace(" mlp]", "]")
    )
    path.write_text(text.lstrip() + extra)
    comments = [line for line in from_mergekit(path).splitlines() if line.startswith("#")]
    for said in (
        "random_init",
        "shuffle",
        "'input_l' tells apart tensors of the role norm",
        "'self_attn': k, v, o have a value each here",
        "gate, down, which no filter names, have a value each here",
        "limit: 25",
        "include: [FOLDER]",
    ):
        assert any(said in line for line in comments), said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("dare_ties", "della", "merge_method: expected one of"),
        ("layer_granularity: 2", "layer_granularity: 3", "do not divide into blocks of 3"),
        ("layer_granularity", "layer_granularty", "did you mean 'layer_granularity'?"),
        (
            "  base_model: {base}\n",
            "",
            "genome.base_model: missing; dare_ties takes deltas from it",
        ),
        ("models: [{chat}, {sea}]", "models: [{chat}]", "expected at least two models"),
        ("limit: 25", "limit: none", "limit: expected a whole number"),
        ("weight: 0.4", "wait: 0.4", "tasks[0].wait: unknown key"),
    ],
)
def test_mistakes_are_refused(imported: Import, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(textwrap.dedent(EVOLVE).replace(old, new))
    assert says in str(caught.value)
