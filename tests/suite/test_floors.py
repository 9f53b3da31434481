"""Floors in words: nobody can read a constraint the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.commands.check import check
from evomerge.suite.floors import in_words
from evomerge.suite.objectives import Floor


@pytest.mark.parametrize(
    ("floor", "maximize", "says"),
    [
        (Floor(0.5), True, "x: at least 0.5"),
        (Floor(0.5), False, "x, where less is better: at most 0.5"),
        (Floor(None, 0.98, "chat"), True, "x: at least 98% of chat's (it may lose 2 percent)"),
        (Floor(None, 1.0, "chat"), True, "x: at least 100% of chat's (no worse than chat)"),
        (
            Floor(None, 1.1, "chat"),
            True,
            "x: at least 110% of chat's (more than chat itself has, by 10 percent)",
        ),
        (
            Floor(None, 1.05, "chat"),
            False,
            "x, where less is better: at most 105% of chat's (it may be 5 percent more)",
        ),
        (
            Floor(None, 0.98, "chat"),
            False,
            "x, where less is better: at most 98% of chat's (less than chat itself has, by 2 percent; to allow "
            "as much more, write 102% of chat)",
        ),
        (
            Floor(None, 0.98, "chat"),
            None,
            "x: at least 98% of chat's, or at most that where less is better",
        ),
    ],
)
def test_in_words(floor: Floor, maximize: bool | None, says: str) -> None:
    assert in_words("x", floor, maximize) == says


def test_the_number_is_said_once_it_is_known() -> None:
    floor = Floor(None, 0.98, "chat")
    assert in_words("x", floor, True, 0.4567, "on the search items").endswith(
        "(it may lose 2 percent): 0.457 on the search items"
    )
    assert in_words("x", Floor(0.5), True, 0.5, "on the search items") == "x: at least 0.5"


def test_check_restates_floors_of_what_it_does_not_execute(tmp_path: Path) -> None:
    """Directions are read from the tasks' files, signals and texts."""
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    tasks = Path(__file__).parents[2] / "fitness" / "demo_tasks"
    (tmp_path / "fitness.yaml").write_text(
        f"include: [{tasks}]\n"
        "objectives:\n"
        "  right: {task: demo_write_sea, metric: exact_match, floor: 98% of chat}\n"
        "  length: {task: demo_write_sea, metric: length, floor: 98% of chat}\n"
        "  mean: {mean_of: [length], floor: 105% of base}\n"
        "  text: {text: texts.jsonl, floor: 1.5}\n"
    )
    floors = [line for line in check(tmp_path / "fitness.yaml") if line.startswith("floor: ")]
    assert floors == [
        "floor: right: at least 98% of chat's (it may lose 2 percent)",
        "floor: length, where less is better: at most 98% of chat's (less than chat itself has, by 2 percent; "
        "to allow as much more, write 102% of chat)",
        "floor: mean, where less is better: at most 105% of base's (it may be 5 percent more)",
        "floor: text, where less is better: at most 1.5",
    ]
