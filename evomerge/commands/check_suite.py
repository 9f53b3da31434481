"""Preflight of a fitness file: as far as it can be checked with what is on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.commands.code import read_tasks
from evomerge.commands.score import read_suite
from evomerge.run.preflight import check_engine
from evomerge.suite.duplicates import find_duplicates
from evomerge.suite.floors import in_words
from evomerge.suite.spec import SuiteSpec
from evomerge.suite.suite import Suite

_WIDTH = 60  # characters of an example


def check_suite(file: Path) -> list[str]:
    """What there is to know about a fitness file, one fact a line.

    Nothing is downloaded, and nothing that the file or its tasks name is executed.

    Raises:
        InputError: with every problem found.
    """
    spec = read_suite(file)
    check_engine(spec)
    tasks = read_tasks(spec)
    lines = [
        f"{file}: ok",
        describe_objectives(spec),
    ]
    if not tasks.downloads and not tasks.code:
        suite = Suite(spec)
        return [*lines, *describe_floors(spec, suite.directions), *describe_items(suite)]
    if not tasks.downloads:
        Suite(spec.without(tasks.code))  # what is wrong with the others
    lines += describe_floors(spec, tasks.maximize)
    unknown = [
        *(["once these data are there"] if tasks.downloads else []),
        *([f"by executing the code of {', '.join(tasks.code)}"] if tasks.code else []),
    ]
    return [
        *lines,
        *(f"downloads {data} for {', '.join(names)}" for data, names in tasks.downloads.items()),
        *tasks.lines,
        f"items and splits: known {' and '.join(unknown)} (`evomerge search` a run that uses them)",
    ]


def describe_objectives(spec: SuiteSpec) -> str:
    """What counts, and how it is combined."""
    named = [plain["name"] + _remark(plain) for plain in spec.objectives]
    front = f"; a front of at most {spec.front} over those with a weight" if spec.front else ""
    return f"objectives, combined by {spec.combination}: {', '.join(named)}{front}"


def _remark(plain: Mapping[str, Any]) -> str:
    """What is to be said of an objective behind its name."""
    said = []
    if plain["target"] is not None:
        said.append(f"how far {' and '.join(plain['of'])} is from {plain['target']:g}, minimised")
    if plain["weight"] != 1:
        said.append(f"weight {plain['weight']:g}")
    return f" ({'; '.join(said)})" if said else ""


def describe_floors(
    spec: SuiteSpec, maximize: Mapping[str, bool], bounds: Mapping[str, float] | None = None
) -> list[str]:
    """Each floor in words, with the number that it comes to where that is known.

    Args:
        spec: holds the floors.
        maximize: objective -> its direction, where that is known.
        bounds: objective -> the number, on the search items; None before base and parents were scored.
    """
    return [
        "floor: "
        + in_words(
            plain["name"],
            plain["floor"],
            maximize.get(plain["name"]),
            (bounds or {}).get(plain["name"]),
            "on the search items",
        )
        for plain in spec.objectives
        if plain["floor"]
    ]


def describe_items(suite: Suite) -> list[str]:
    """How many items each split has, and which were grouped as near-duplicates."""
    lines = [
        f"{split} items: {', '.join(f'{len(ids)} {name}' for name, ids in items.items())}"
        for split, items in suite.splits.items()
    ]
    groups = find_duplicates({name: scorer.items() for name, scorer in suite.scorers.items()})
    if groups:
        sources = sum(len(group.sources) for group in groups)
        lines.append(
            f"near-duplicates: {sources} sources in {len(groups)} groups, each kept in one split; for "
            f"example {' and '.join(groups[0].sources[:2])}: {groups[0].texts[0][:_WIDTH]!r} ..."
        )
    return lines
