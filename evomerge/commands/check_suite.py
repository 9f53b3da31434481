"""Preflight of a fitness file: as far as it can be checked with what is on this machine."""

from __future__ import annotations

from pathlib import Path

from evomerge.commands.score import read_suite
from evomerge.errors import ConfigError, InputError
from evomerge.suite.duplicates import find_duplicates
from evomerge.suite.spec import SuiteSpec
from evomerge.suite.suite import Suite

_WIDTH = 60  # characters of an example


def check_suite(file: Path) -> list[str]:
    """What there is to know about a fitness file, one fact a line. Nothing is downloaded.

    Raises:
        InputError: with every problem found.
    """
    spec = read_suite(file)
    downloads = _check_tasks(spec)
    lines = [
        f"{file}: ok",
        f"objectives, combined by {spec.combination}: "
        + ", ".join(
            plain["name"] + (f" (floor {plain['floor']})" if plain["floor"] else "")
            for plain in spec.objectives
        ),
    ]
    if not downloads:
        return [*lines, *describe_items(Suite(spec))]
    return [
        *lines,
        *(f"downloads {data} for {', '.join(tasks)}" for data, tasks in downloads.items()),
        "items and splits: known once these data are there (`evomerge check` a run that uses them)",
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


def _check_tasks(spec: SuiteSpec) -> dict[str, list[str]]:
    """Hub data set -> tasks that download it.

    Raises:
        ConfigError: tasks or metrics are unknown.
    """
    problems: list[str] = []
    downloads: dict[str, list[str]] = {}
    for scorer in spec.scorers:
        if scorer.kind != "task":
            continue
        from evomerge.scorers.lm_eval.description import describe

        try:
            described = describe(scorer.target, spec.include)
        except InputError as error:
            problems.append(f"{spec.place_of(scorer.name)}: {error}")
            continue
        if described.download:
            downloads.setdefault(described.download, []).append(scorer.name)
        for plain in spec.objectives:
            if plain["scorer"] == scorer.name:
                try:
                    described.check_metric(scorer.name, plain["metric"])
                except InputError as error:
                    key = f"objectives.{plain['name']}.metric"
                    problems.append(f"{spec.place(key)}: {error}")
    if problems:
        raise ConfigError(problems)
    return downloads
