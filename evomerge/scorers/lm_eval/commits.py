"""Data sets of the hub: taken at the commit that a search was started with, or told which commit that is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets

from evomerge.scorers.lm_eval.undecoded import as_stored

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@contextmanager
def at(commits: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Data sets that tasks load are those of ``commits``, by their hub id; it yields those that were found.

    One that asks for a revision itself gets it. What they hold is not decoded: see ``undecoded``.
    """
    load, found = datasets.load_dataset, dict[str, str]()

    def pinned(path: Any, *options: Any, **named: Any) -> Any:
        if path in commits and named.get("revision") is None:
            named["revision"] = commits[path]
        loaded = load(path, *options, **named)
        if commit := _commit_of(loaded):
            found[str(path)] = commit
        return as_stored(loaded)

    datasets.load_dataset = pinned
    try:
        yield found
    finally:
        datasets.load_dataset = load


def _commit_of(loaded: Any) -> str:
    """The commit of a loaded data set, by which `datasets` names its folder in the cache; empty for local files."""
    splits = loaded.values() if isinstance(loaded, dict) else [loaded]
    files = [file["filename"] for each in splits for file in getattr(each, "cache_files", ())]
    return next((name for each in files if _COMMIT.match(name := Path(each).parent.name)), "")
