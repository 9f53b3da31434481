"""The README cannot rot: its Python runs, its YAML parses, its commands exist, its tables are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from evomerge import config, methods
from evomerge.cli.parser import make_parser
from evomerge.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_python_runs() -> None:
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_yaml_parses() -> None:
    run, recipe, tokenizer = (config.parse(block, "README.md") for block in blocks("yaml"))
    assert set(run.plain) >= {"models", "space", "fitness"}
    assert len(Recipe.parse(recipe).groups) == 2
    whole = {**recipe.plain, **tokenizer.plain}
    assert Recipe.from_plain(whole).plain["tokenizer"] == tokenizer.plain["tokenizer"]


@pytest.mark.parametrize(
    "line",
    [line for block in blocks("console") for line in block.splitlines() if "evomerge " in line],
)
def test_commands_exist(line: str) -> None:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    if words and words[0] == "evomerge":
        assert make_parser().parse_args(words[1:])


def test_every_method_in_the_table_exists() -> None:
    """That the table is whole is for `make lint`: a new method fails no test."""
    shown = re.search(r"<!-- methods table -->\n(.*?)\n?<!-- end -->", README, re.S)
    assert shown is not None
    rows = shown[1].splitlines()[2:]
    assert {row.split("`")[1] for row in rows} <= set(methods.names())


def test_the_demo_table_is_there() -> None:
    shown = re.search(r"<!-- demo table -->\n(.*?)<!-- end -->", README, re.S)
    assert shown is not None
    rows = [line for line in shown[1].splitlines() if line.startswith("| ")]
    assert {"base", "chat", "sea", "uniform"} <= {row.split("|")[1].strip() for row in rows}
    assert "winner" in rows[-1] and "DEMO_MINUTES" not in README


def test_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
