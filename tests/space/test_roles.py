"""Roles: a preset names models by what they do, a run says which of its sources that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge import config
from evomerge.errors import ConfigError
from evomerge.run.spec import load_run
from evomerge.space import parse_space
from evomerge.space.roles import cast

SOURCES = ("chat", "sea", "math")


def played(content: Any, **bound: tuple[str, ...]) -> tuple[Any, list[str]]:
    problems = config.Problems()
    node = config.parse(config.dump(content), "space.yaml")
    return cast(node, "", SOURCES, bound, problems).plain, problems.found


def test_roles_stand_wherever_a_space_may_name_a_model() -> None:
    content = {
        "roles": {"language": "who speaks it"},
        "models": ["$language", "$chat", "$base"],
        "parameters": {"density": {"$language": 0.5, "chat": {"range": [0.3, 1]}}},
        "layer_swap": {"outer": "$language", "inner": "$chat"},
        "weight": {"$siblings": 0.25},
    }
    plain, problems = played(content, language=("sea",))
    assert problems == []
    assert plain == {
        "models": ["sea", "chat", "base"],
        "parameters": {"density": {"sea": 0.5, "chat": {"range": [0.3, 1]}}},
        "layer_swap": {"outer": "sea", "inner": "chat"},
        "weight": {"chat": 0.25, "sea": 0.25, "math": 0.25},
    }


def test_several_may_play_a_role_where_several_may_stand() -> None:
    content = {"models": ["$experts", "chat"], "weight": {"$experts": 0.5}}
    plain, problems = played(content, experts=("sea", "math"))
    assert not problems and plain == {
        "models": ["sea", "math", "chat"],
        "weight": {"sea": 0.5, "math": 0.5},
    }
    _, [problem] = played({"keep": {"embed": "$experts"}}, experts=("sea", "math"))
    assert (
        problem == "space.yaml:1: keep.embed: $experts is 2 sources here (sea, math); expected one"
    )
    _, [problem] = played({"weight": {"$chat": 0.5, "$boss": 1}}, boss=("chat",))
    assert "weight.$boss: 'chat' has a value already" in problem


def test_a_role_that_nobody_plays_is_said_once_and_with_who_it_is() -> None:
    content = {
        "roles": {"language": "the model that speaks it"},
        "start": [{"name": "a", "recipe": {"weight": {"$language": 1, "$chat": 1}}}],
        "models": ["$language"],
    }
    _, [problem] = played(content)
    assert problem == (
        "space.yaml:5: start[0].recipe.weight.$language: no source plays the role 'language' (the model that speaks "
        "it). Call a source 'language', or say in run.yaml which one it is: models: {roles: {language: chat}}; one "
        "of 'chat', 'sea', 'math'"
    )


def test_a_space_with_an_unbound_role_is_refused_for_that_alone() -> None:
    problems = config.Problems()
    node = config.parse("layer_swap: {outer: $language, inner: chat}", "space.yaml")
    assert parse_space(node, SOURCES, problems) is None
    assert len(problems.found) == 1 and "no source plays the role 'language'" in problems.found[0]


RUN = """\
models:
  base: a/base
  sources: {{one: a/one, two: a/two}}
  roles: {roles}
  tokenizer: one
space: {{methods: [ties], start: [{{name: x, recipe: {{method: ties, weight: {{$chat: 0.5, $language: 0.4}}}}}}]}}
fitness: {{objectives: {{t: {{text: t.jsonl, floor: 102% of chat}}}}}}
"""


def test_a_run_binds_roles_of_its_space_and_of_floors(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN.format(roles="{chat: one, language: two}"))
    spec = load_run(tmp_path)
    [start] = spec.space.start
    assert not isinstance(start, str)
    assert spec.suite.objectives[0]["floor"].of == "one"
    (tmp_path / "run.yaml").write_text(RUN.format(roles="{chat: base, language: [two]}"))
    assert load_run(tmp_path).suite.objectives[0]["floor"].of == "base"
    assert load_run(tmp_path).digest != spec.digest


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("{chat: on, language: two}", "run.yaml:4: models.roles.chat: 'on' is no source of this run (did you mean 'one'?); one of 'one', 'two', 'base'"),
        ("{chat: [], language: two}", "models.roles.chat: expected a source of this run, or a list of some, found []"),
        ("{language: two}", "no source plays the role 'chat'. Call a source 'chat'"),
        ("[two]", "models.roles: expected a mapping of names, found ['two']"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_roles_is_said(tmp_path: Path, roles: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(RUN.format(roles=roles))
    with pytest.raises(ConfigError) as caught:
        load_run(tmp_path)
    assert message in str(caught.value)
