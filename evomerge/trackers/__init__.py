"""Trackers: experiment trackers of others that a search is shown in, by name. Nothing depends on them.

A tracker is one file here, or a class of a plugin under group ``evomerge.trackers``. It is given rows, one an
evaluation, each with a step that is told once: a search that is resumed goes on with the same run of the tracker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evomerge.errors import InputError, did_you_mean, one_of
from evomerge.registry import TRACKERS

Values = Mapping[str, float]


class Tracker(ABC):
    """One run, in one tracker.

    Whatever a method raises drops the tracker, and never the search.

    Args:
        folder: of the run; what lies on this machine is kept there, unless an option says otherwise.
        options: by name, of ``OPTIONS``.

    Raises:
        InputError: its package is not installed, or an option is wrong.
    """

    OPTIONS: ClassVar[Mapping[str, str]] = {}  # name -> what it says

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self.folder, self.options = folder.absolute(), options

    @abstractmethod
    def start(self, name: str, id: str, config: Mapping[str, Any], steps: int) -> int:
        """Begin the run, or go on with it.

        Args:
            name: of the run, for people.
            id: of the run; the same in every session.
            config: run.yaml with the files it names, as plain data.
            steps: that earlier sessions told it.

        Returns:
            How many it has: the next to be told follows them.
        """

    @abstractmethod
    def log(self, step: int, values: Values) -> None:
        """Numbers of one step."""

    @abstractmethod
    def table(self, heading: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> None:
        """The final table: as texts, and as Markdown."""

    @abstractmethod
    def finish(self, done: bool) -> None:
        """Write what is not written; ``done``: the search is."""


def make(name: str, folder: Path, options: Mapping[str, str]) -> Tracker:
    """The tracker called ``name``.

    Raises:
        InputError: there is none, it has no such option, or its package is not installed.
    """
    kind = TRACKERS.get(name)
    if not (isinstance(kind, type) and issubclass(kind, Tracker)):
        raise InputError(
            f"tracker {name!r} ({TRACKERS.where(name)}) is not an evomerge Tracker class"
        )
    for option in options:
        if option not in kind.OPTIONS:
            known = one_of(kind.OPTIONS) if kind.OPTIONS else "none"
            raise InputError(
                f"tracker {name}: unknown option {option!r}{did_you_mean(option, kind.OPTIONS)}; expected {known}"
            )
    return kind(folder, options)


def missing(name: str, package: str) -> InputError:
    """What to raise where a tracker's package is not installed."""
    return InputError(
        f"tracker {name}: the package {package} is not installed: pip install 'evomerge[{name}]', or leave the "
        "tracker out"
    )


def flat(content: Any, key: str = "") -> dict[str, Any]:
    """Nested data as one level: ``{"budget.items": 6900}``."""
    if isinstance(content, Mapping):
        found: dict[str, Any] = {}
        for name, value in content.items():
            found |= flat(value, f"{key}.{name}" if key else str(name))
        return found
    return {key: content}
