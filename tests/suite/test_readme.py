"""fitness/README.md cannot rot: its examples load, its tables are those of the code."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from evomerge import config, estimators
from evomerge.cli.parser import make_parser
from evomerge.registry import LOSSES, PREDICTORS
from evomerge.suite import splits
from evomerge.suite.scorer import SIGNALS
from evomerge.suite.slopes import SlopeOptions
from evomerge.suite.spec import LIMITS, SuiteSpec, parse_suite

FITNESS = Path(__file__).parents[2] / "fitness"
README = (FITNESS / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def table(start: str) -> list[list[str]]:
    """Cells of the first table after ``start``, its head left out; code marks are dropped."""
    lines = README.split(start, 1)[1].splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


def names(rows: list[list[str]]) -> set[str]:
    return {name for row in rows for name in row[0].split(", ")}


def parsed(text: str, folder: Path) -> tuple[SuiteSpec | None, list[str]]:
    path = folder / "fitness.yaml"
    path.write_text(text, encoding="utf-8")
    problems = config.Problems()
    return parse_suite(config.read(path), ("chat",), problems), problems.found


def test_the_examples_load(tmp_path: Path) -> None:
    (tmp_path / "my_tasks").mkdir()
    given: set[str] = set()
    for text in blocks("yaml"):
        suite, problems = parsed(text, tmp_path)
        assert suite is not None, problems
        for objective in suite.objectives:
            given |= {key for key, value in objective.items() if value}
    assert {"floor", "of", "scorer", "direction"} <= given


@pytest.mark.parametrize(
    "line", [line for block in blocks("console") for line in block.splitlines()]
)
def test_commands_exist(line: str) -> None:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    assert words[0] == "evomerge"
    assert make_parser().parse_args(words[1:])


def known_keys(text: str, folder: Path) -> set[str]:
    """What the message for an unknown key says is known where it stands."""
    _, problems = parsed(text, folder)
    [known] = [problem.split("known here: ")[1] for problem in problems if "known here" in problem]
    return set(known.split(", "))


def test_key_tables(tmp_path: Path) -> None:
    assert names(table("## Keys")) == known_keys("x: 1", tmp_path)
    objective, task = names(table("An objective is")), names(table("A task also takes"))
    assert objective | task == known_keys("objectives: {a: {task: b, x: 1}}", tmp_path) | {"field"}


def test_signals_table() -> None:
    better = {True: "higher", False: "lower"}
    assert [row[:2] for row in table("<!-- signals -->")] == [
        [name, better[higher]] for name, higher in SIGNALS.items()
    ]


def test_splits_table() -> None:
    assert [row[:3] for row in table("<!-- splits -->")] == [
        [name, f"{splits.SHARES[name]:g}", str(LIMITS[name])] for name in splits.SPLITS
    ]


def test_losses_table() -> None:
    assert names(table("<!-- losses -->")) == set(LOSSES.built_in)
    assert asdict(SlopeOptions()) == {"loss": "lead", "tau": 1, "checkpoint": False}
    assert "`slopes: {loss: lead, tau: 1, checkpoint: false}`" in README


def test_estimators_table() -> None:
    assert names(table("<!-- estimators -->")) == set(PREDICTORS.built_in)
    assert all(f"`NAME {form}`" in README for form in set(estimators.FORMS) - {"unbiased"})
    [row] = [row for row in table("## Keys") if row[0] == "estimator"]
    assert row[1] == SuiteSpec((), ()).estimator


def test_suites_table() -> None:
    assert names(table("## To start from")) == {path.name for path in FITNESS.glob("*.yaml")}
