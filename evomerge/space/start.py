"""What ``start`` of a space may list: names of known recipes, recipe files, and other runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from evomerge import config
from evomerge.recipe import Body

BEST = 8  # merges of another run, where its entry says no number
MOST = 1000

Given = Mapping[str, Mapping[str, Body]]
"""Other run, as ``start`` writes it -> label -> a merge of it, in the names of this run's models."""


@dataclass(frozen=True)
class OtherRun:
    """A run whose best merges are scored first: ``{run: FOLDER, best: N}``.

    Attributes:
        text: its folder, as written.
        folder: where that is.
        best: how many of them, at most.
        place: file:line, for messages.
    """

    text: str
    folder: Path
    best: int = BEST
    place: str = field(default="", compare=False)


Entry = str | OtherRun


def is_recipe_file(entry: object) -> TypeGuard[str]:
    """True for the name of a recipe file."""
    return isinstance(entry, str) and entry.endswith((".yaml", ".yml"))


def parse_entries(section: config.Section) -> tuple[Entry, ...]:
    """The list under ``start``; one entry stands for a list of one. Problems are noted in the section."""
    node = section.get("start")
    if node is None:
        return ()
    found: list[Entry] = []
    for number, item in enumerate(node.value if isinstance(node.value, list) else [node]):
        if isinstance(item.value, str):
            found.append(item.value)
        elif isinstance(item.value, dict):
            part = config.Section(item, section.problems, f"{section.path}start[{number}].")
            text = part.text("run", required=True)
            best = part.integer("best", BEST, low=1, high=MOST)
            part.finish()
            folder = Path(os.path.normpath(node.folder / os.path.expanduser(text)))
            if any(isinstance(each, OtherRun) and each.folder == folder for each in found):
                part.problem(
                    "run", f"{text!r} stands twice; once, with a larger `best`, takes more"
                )
            found.append(OtherRun(text, folder, best, f"{item.file}:{item.line}"))
        else:
            section.problem(
                "start",
                "expected names of known recipes, recipe files, and other runs as {run: FOLDER, best: N}, "
                f"found {config.shown(item.plain)}",
            )
    return tuple(found)
