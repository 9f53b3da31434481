"""A job that moves to another folder: every file and folder that its run.yaml names is named from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evomerge import presets
from evomerge.space.start import is_recipe_file
from evomerge.suite.spec import FILES

_FILES = (*FILES, "corpus")  # keys of an objective that name a file
Rename = Callable[[str], str]
"""What a file or folder, as the old run.yaml names it, is called in the new one."""


def fitness_moved(plain: Any, rename: Rename) -> Any:
    """``fitness``: a preset, a file, or the suite inline."""
    if isinstance(plain, str):
        return plain if presets.is_name(plain) else rename(plain)
    found = dict(plain)
    if "include" in found:
        include = found["include"]
        found["include"] = [
            rename(each) for each in ([include] if isinstance(include, str) else include)
        ]
    objectives = found["objectives"]
    found["objectives"] = {
        name: {key: rename(value) if key in _FILES else value for key, value in each.items()}
        for name, each in objectives.items()
    }
    if "anchors" in found:  # by the names that scorers of files are written with
        targets = {each[key] for each in objectives.values() for key in FILES if key in each}
        found["anchors"] = {
            rename(name) if name in targets else name: each
            for name, each in found["anchors"].items()
        }
    return found


def calibration_moved(plain: Mapping[str, Any], rename: Rename) -> dict[str, Any]:
    """``calibration``, whose texts lie in a file."""
    return {**plain, "file": rename(plain["file"])}


def space_moved(plain: Any, rename: Rename) -> Any:
    """``space``: a preset, a file, or inline, with recipe files and other runs under ``start``."""
    if isinstance(plain, str):
        return plain if presets.is_name(plain) else rename(plain)
    if "start" not in plain:
        return dict(plain)
    start = plain["start"]
    return {
        **plain,
        "start": [
            _start_moved(each, rename) for each in (start if isinstance(start, list) else [start])
        ],
    }


def _start_moved(entry: Any, rename: Rename) -> Any:
    if isinstance(entry, Mapping):
        return {**entry, "run": rename(entry["run"])} if "run" in entry else dict(entry)
    return rename(entry) if is_recipe_file(entry) else entry
