"""The documents cannot rot: their Python runs, their YAML is read, their commands exist, their links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge import config, methods
from evomerge.cli.parser import make_parser
from evomerge.commands.check_space import named_sources
from evomerge.commands.kinds import OF_SPACES
from evomerge.commands.search import search
from evomerge.recipe import Recipe
from evomerge.run.spec import run_of
from evomerge.space import parse_space
from evomerge.suite.spec import parse_suite

ROOT = Path(__file__).parents[1]
FILES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "search_spaces/README.md",
    ROOT / "fitness/README.md",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST = 200  # lines of the README
FRONT, RUN = "front/slider.yaml", "runs/mine"


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Fenced blocks of ``language`` in all documents."""
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            yield file, block


def named(found: Iterator[tuple[Path, str]]) -> list[object]:
    return [
        pytest.param(*each, id=f"{each[0].relative_to(ROOT)}-{n}") for n, each in enumerate(found)
    ]


def test_every_block_is_of_a_language_that_is_checked() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        fences = re.findall(r"^```(.*)$", text, re.M)
        assert set(fences[::2]) <= {"python", "yaml", "console", "toml", "text"}, file
        assert set(fences[1::2]) <= {""}, file


@pytest.mark.parametrize(
    "file",
    sorted({file for file, _ in blocks("python")}),
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_python_runs(
    file: Path, tmp_path: Path, write_job: Callable[..., Path], small: dict[str, Any]
) -> None:
    """The blocks of one document, one after the other, in a process of their own."""
    code = [block for where, block in blocks("python") if where == file]
    if any(FRONT in block for block in code):
        pytest.skip(f"reads {FRONT}, which a search with a front exports; tests/report reads one")
    if any(RUN in block for block in code):
        search(write_job(tmp_path / RUN, **small))
    (tmp_path / "document.py").write_text("\n".join(code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "document.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("file", "block"), named(blocks("yaml")))
def test_yaml_is_read(file: Path, block: str) -> None:
    """By the reader of what it is: a run, a fitness file, a space, a recipe; the rest are parts of these."""
    node = config.parse(block, str(file))
    assert isinstance(node.value, dict)
    problems, keys = config.Problems(), set(node.value)
    if keys >= {"space", "fitness"}:
        run_of(node)
    elif keys & {"objectives", "front"}:
        parse_suite(node, None, problems)
    elif keys & OF_SPACES:
        parse_space(node, tuple(named_sources(node)) or ("chat", "sea"), problems)
    elif "groups" in keys and keys & {"base", "models"}:
        Recipe.parse(node)
    # a file called my... is the reader's
    assert not [each for each in problems.found if not re.search(r"no such .*/my[-_]", each)]


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            line.strip()
            for _, block in blocks("console")
            for line in block.splitlines()
            if line.startswith("$ evomerge ")
        }
    ),
)
def test_commands_exist(line: str) -> None:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    assert make_parser().parse_args(words[1:])


def test_links_exist() -> None:
    for file in FILES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", file.read_text(encoding="utf-8")):
            assert target.startswith("http") or (file.parent / target).exists(), (file.name, target)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < MOST


def test_every_document_is_named_in_the_readme_or_by_one_that_is() -> None:
    listed = set(re.findall(r"\((?:docs/)?([\w-]+\.md)", README))
    assert {file.name for file in ROOT.glob("docs/*.md")} <= listed


def test_every_method_in_the_table_exists() -> None:
    """That the table is whole is for `make lint`: a new method fails no test."""
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- methods table -->\n(.*?)\n?<!-- end -->", text, re.S)
    assert shown is not None
    assert {row.split("`")[1] for row in shown[1].splitlines()[2:]} <= set(methods.names())


def test_the_demo_table_is_the_same_everywhere() -> None:
    texts = [README, (ROOT / "docs/evidence.md").read_text(encoding="utf-8")]
    tables = [re.search(r"<!-- demo table -->\n(.*?)<!-- end -->", text, re.S) for text in texts]
    assert tables[0] and tables[1] and tables[0][1] == tables[1][1]
    rows = [line for line in tables[0][1].splitlines() if line.startswith("| ")]
    assert {"base", "chat", "sea", "uniform"} <= {row.split("|")[1].strip() for row in rows}
    assert "winner" in rows[-1]


def test_every_document_is_a_page_of_the_site_and_its_links_hold_there() -> None:
    spec = importlib.util.spec_from_file_location("lay_out", ROOT / "docs/lay_out.py")
    assert spec is not None and spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    known = site.pages()
    assert set(known) == set(FILES) - {ROOT / "CHANGELOG.md"}
    for file in known:
        for target in re.findall(r"\]\(([^)#\s]+)", site.rewritten(file, known)):
            local = target.startswith("http") or target.endswith(site.PICTURES)
            assert local or target.removesuffix(".md") in known.values(), (file.name, target)
