"""docs/systems.yaml cannot rot: whatever a row names is there, and no system is missing or stands twice."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("systems", ROOT / "docs" / "systems.py")
assert _spec is not None and _spec.loader is not None
systems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(systems)

ROWS: list[dict[str, Any]] = systems.load()


def test_nothing_is_wrong_with_a_row() -> None:
    assert list(systems.faults(ROWS)) == []
    assert len(ROWS) == systems.COUNT == 113


def row(rows: list[dict[str, Any]], number: int) -> dict[str, Any]:
    return next(each for each in rows if each["number"] == number)


@pytest.mark.parametrize(
    ("number", "change", "told"),
    [
        (55, {"use": {"method": ["tise"]}}, "use: there is no method 'tise'"),
        (47, {"use": {"optimizer": ["soup"]}}, "use: there is no optimizer 'soup'"),
        (29, {"use": {"loss": ["nll"]}}, "use: there is no loss 'nll'"),
        (47, {"use": {"space": ["soups.yaml"]}}, "use: there is no space 'soups.yaml'"),
        (16, {"use": {"fitness": ["sea.yaml"]}}, "use: there is no fitness 'sea.yaml'"),
        (16, {"use": {"run": ["mine"]}}, "use: there is no run 'mine'"),
        (7, {"use": {"command": ["turns"]}}, "use: there is no command 'turns'"),
        (70, {"use": {"command": ["merge --squeeze"]}}, "use: there is no command 'merge --squeeze'"),
        (7, {"use": {"docs": ["turns.md"]}}, "use: there is no docs 'turns.md'"),
        (7, {"use": {"spell": ["x"]}}, "use: unknown kind 'spell'"),
        (2, {"tests": ["tests/test_space.py::test_none"]}, "tests: there is no tests/test_space.py::test_none"),
        (2, {"tests": ["tests/none.py::test_x"]}, "tests: there is no tests/none.py::test_x"),
        (2, {"tests": ["docs/systems.py::load"]}, "tests: there is no docs/systems.py::load"),
        (2, {"tests": []}, "tests: missing"),
        (2, {"state": "soon"}, "state 'soon': expected one of works, in part, transfer, not"),
        (25, {"lacks": ""}, "lacks: missing"),
        (25, {"use": {}}, "use: says nothing of a system whose state is 'not'"),
        (2, {"class": "spell"}, "class 'spell': expected one of"),
        (2, {"link": "javascript:alert(1)"}, "link 'javascript:alert(1)': expected https"),
    ],
)  # fmt: skip
def test_a_row_that_is_wrong_is_refused(number: int, change: dict[str, Any], told: str) -> None:
    rows = deepcopy(ROWS)
    row(rows, number).update(change)
    [fault] = systems.faults(rows)
    assert fault.startswith(f"row {number}: {told}")


def test_a_row_less_or_twice_is_refused() -> None:
    assert list(systems.faults(ROWS[1:])) == [f"row {ROWS[0]['number']}: stands 0 times"]
    assert list(systems.faults([*ROWS, ROWS[0]])) == [f"row {ROWS[0]['number']}: stands 2 times"]
    more = {**ROWS[0], "number": 114}
    assert list(systems.faults([*ROWS, more])) == ["row 114: expected numbers from 1 to 113"]


def test_the_page_shows_every_row_once() -> None:
    page = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    shown = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    numbers = [int(cell) for cell in shown if cell.isdecimal()]
    assert sorted(numbers) == list(range(1, 114))
