"""The search spaces, fitness files and runs that come with evomerge, by name.

In a clone they lie at the top, where they are edited; an installed package carries them. A name has no folder and no
suffix: ``multilingual-instruct`` is a preset, ``./mine.yaml`` is a file.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import InputError, did_you_mean

_CLONE = Path(__file__).parents[1]
_INSTALLED = Path(__file__).parent / "presets"
PLACES: Mapping[str, str] = {
    "space": "search_spaces/*.yaml",
    "fitness": "fitness/*.yaml",
    "run": "runs/*/run.yaml",
}
CALLED: Mapping[str, str] = {"space": "search space", "fitness": "fitness file", "run": "run"}
HEADINGS: Mapping[str, str] = {
    "space": "search spaces (`space: NAME` in a run.yaml, or --space NAME)",
    "fitness": "fitness files (`fitness: NAME`, or --fitness NAME)",
    "run": "runs, as examples (runs/NAME/run.yaml)",
}
_SUFFIXES = (".yaml", ".yml")
_SYSTEMS = "Systems: "  # begins the line of a head that names published systems


@dataclass(frozen=True)
class Preset:
    """One file.

    Attributes:
        name: as a run.yaml says it.
        file: where it lies.
        about: the first sentence of its head.
        systems: the published systems that it stands for, as its head names them; empty if it names none.
    """

    name: str
    file: Path
    about: str
    systems: str


def root() -> Path:
    """The folder that ``search_spaces``, ``fitness`` and ``runs`` lie in."""
    return _INSTALLED if _INSTALLED.is_dir() else _CLONE


def names(kind: str) -> list[str]:
    """Of the presets of a ``kind``, one of ``PLACES``, sorted."""
    return sorted(_files(kind))


def shipped(kind: str) -> list[Preset]:
    """The presets of a ``kind``, sorted by name."""
    return [Preset(name, file, *_head(file)) for name, file in sorted(_files(kind).items())]


def is_name(text: str) -> bool:
    """True if ``text`` names a preset: it has no folder and no suffix of YAML."""
    return bool(text) and "/" not in text and not text.endswith(_SUFFIXES) and text[0] not in ".~"


def file_of(kind: str, text: str) -> str:
    """The file that ``text`` means: that of a preset where it is a name, else ``text`` itself.

    Raises:
        InputError: no preset has this name.
    """
    if not is_name(text):
        return text
    files = _files(kind)
    if text not in files:
        raise InputError(
            f"no {CALLED[kind]} that comes with evomerge is called {text!r}{did_you_mean(text, files)}; "
            f"`evomerge new --list` shows them. A file of your own is written as a path: {text}.yaml or ./{text}"
        )
    return str(files[text])


def listing(width: int = 80) -> list[str]:
    """All of them, in lines of ``width`` characters, under headings that say how they are named."""
    lines: list[str] = []
    for kind, heading in HEADINGS.items():
        found = shipped(kind)
        indent = 2 + max(len(each.name) for each in found) + 2
        lines += [*([""] if lines else []), f"{heading}:"]
        for each in found:
            systems = f" [{each.systems}]" if each.systems else ""
            about = textwrap.wrap(f"{each.about}{systems}", max(width - indent, 20))
            first, *rest = about or [""]
            lines.append(f"  {each.name}".ljust(indent) + first)
            lines += [" " * indent + line for line in rest]
    return lines


def _files(kind: str) -> dict[str, Path]:
    found = root().glob(PLACES[kind])
    return {file.parent.name if kind == "run" else file.stem: file for file in found}


def _head(file: Path) -> tuple[str, str]:
    """The first sentence of the comment that a file begins with, and the systems it names."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    systems = [line.removeprefix(_SYSTEMS) for line in lines if line.startswith(_SYSTEMS)]
    text = " ".join(line for line in lines if not line.startswith(_SYSTEMS))
    first = re.split(r"(?<=[.:;?])\s", text, maxsplit=1)[0].rstrip(".:;")
    if first.count("(") > first.count(")"):  # it ends within a remark
        first = first.rpartition(" (")[0]
    return first, ", ".join(systems)
