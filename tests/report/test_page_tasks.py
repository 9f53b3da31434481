"""Columns of the heat map stand by language, or by what is made of them."""

from __future__ import annotations

from evomerge.report.page.tasks import groups, languages
from evomerge.suite.objectives import Objective


def measured(name: str) -> Objective:
    return Objective(name, name, "acc")


def named(objectives: list[Objective], spoken: dict[str, str]) -> list[tuple[str, list[str]]]:
    return [(g.title, [o.name for o in g.objectives]) for g in groups(objectives, spoken)]


def test_by_language_what_is_made_of_several_first() -> None:
    content = {
        "fitness": {
            "objectives": {
                "a": {"task": "a", "language": "th"},
                "b": {"task": "b", "language": "id"},
                "c": {"task": "c", "language": "th"},
                "d": {"task": "d"},
                "e": {"task": "e", "language": ["th"]},
                "f": "no mapping",
            }
        }
    }
    spoken = languages(content)
    assert spoken == {"a": "th", "b": "id", "c": "th"}
    found = [*map(measured, "dabc"), Objective("worst", "", "", of=("a", "b"), how="worst")]
    assert named(found, spoken) == [
        ("over several", ["worst"]),
        ("th", ["a", "c"]),
        ("id", ["b"]),
        ("", ["d"]),
    ]
    assert languages({}) == languages({"fitness": "x"}) == languages({"fitness": {}}) == {}


def test_else_by_what_is_made_of_them() -> None:
    found = [*map(measured, "abcd")]
    found += [Objective("mean", "", "", of=("c", "d"), how="mean")]
    found += [Objective("worst", "", "", of=("c", "d"), how="worst")]
    for spoken in ({}, {"a": "th"}):  # one language parts nothing
        assert named(found, spoken) == [
            ("mean, worst", ["mean", "worst", "c", "d"]),
            ("", ["a", "b"]),
        ]
    assert named(found[:2], {}) == [("", ["a", "b"])]
