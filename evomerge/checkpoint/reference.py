"""Naming models: what the user writes, and the folder it means."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.checkpoint.hub import Missing, is_commit_of, missing, pinned, snapshot
from evomerge.errors import CheckpointError, did_you_mean

EMBEDDED = Path(__file__).parents[1] / "demo" / "models"
# a revision becomes a path in the hub's cache, and is none that leads elsewhere
REVISION = r"(?!\.\.?(?:/|$))[\w.-]+(?:/(?!\.\.?(?:/|$))[\w.-]+)*"
_HUB_ID = re.compile(rf"^\w[\w.-]*/\w[\w.-]*(?:@{REVISION})?$")


@dataclass(frozen=True)
class ModelRef:
    """A model as the user named it; relative folders start from ``origin``."""

    text: str
    origin: str = field(default=".", compare=False)

    @property
    def parts(self) -> list[str]:
        """The model, and the adapter if there is one. A folder whose name holds a + is a model."""
        found = _local(self.text, self.origin)
        return (
            [self.text] if found is not None and os.path.exists(found) else self.text.split("+", 1)
        )

    @property
    def model(self) -> str:
        return self.parts[0]

    @property
    def adapter(self) -> str | None:
        return self.parts[1] if len(self.parts) > 1 else None

    @property
    def is_recipe(self) -> bool:
        """True if it is a recipe file, whose merge is the model (``merging.models``)."""
        return self.text.endswith((".yaml", ".yml")) and not os.path.isdir(self.portable)

    @property
    def portable(self) -> str:
        """The same name with folders made absolute, so that it means the same anywhere."""
        return "+".join(self._portable(part) or part for part in self.parts)

    @property
    def pinned(self) -> str:
        """The same, and hub ids at the commit at which this process opened them."""
        return "+".join(self._portable(part) or pinned(part) for part in self.parts)

    def pinned_as(self, before: str) -> str:
        """The same at the commits of ``before``, which was ``pinned`` of it once, as a journal says.

        Empty where nothing is pinned, or another repository: a journal may come from a stranger, and names no folder.
        """
        parts, known = self.parts, before.split("+", len(self.parts) - 1)
        if len(known) != len(parts):
            return ""
        found = []
        for part, then in zip(parts, known, strict=True):
            here = self._portable(part)
            if here is None and not is_commit_of(part, then):
                return ""
            found.append(here or then)
        return "" if all(map(self._portable, parts)) else "+".join(found)

    def _portable(self, part: str) -> str | None:
        """A part's name anywhere; None if it is a hub id."""
        if part.startswith("embedded:"):
            return part
        path = _local(part, self.origin)
        return None if path is None else str(path)

    def __str__(self) -> str:
        return self.text


def _local(text: str, origin: str) -> Path | None:
    """The folder ``text`` means on this machine, or None if it reads as a hub id."""
    if text.startswith("embedded:"):
        return EMBEDDED / text.removeprefix("embedded:")
    # os.path takes a name that no file can have for that of no file; pathlib raises
    path = (Path(origin) / os.path.expanduser(text)).absolute()
    path = Path(os.path.normpath(path))
    return path if os.path.exists(path) or not _HUB_ID.match(text) else None


def locate(text: str, origin: str = ".") -> Path:
    """The local folder of a model or adapter; of a hub id all but the weights are fetched into the hub's cache.

    Raises:
        CheckpointError: no such folder, or the hub does not answer.
    """
    path = _local(text, origin)
    if path is None:
        return snapshot(text)
    if not os.path.isdir(path):
        if text.startswith("embedded:"):
            known = sorted(p.name for p in EMBEDDED.iterdir()) if EMBEDDED.is_dir() else []
            name = text.removeprefix("embedded:")
            raise CheckpointError(
                f"{text}: no such embedded model{did_you_mean(name, known)}; there are: {', '.join(known)}"
            )
        raise CheckpointError(
            f"{text}: no such folder ({path}); expected a Hugging Face model folder, a hub id "
            "(org/name[@revision]) or MODEL+ADAPTER"
        )
    return path


def outlined(text: str, origin: str = ".", *, adapter: bool = False) -> Missing | None:
    """The weights that the hub's cache lacks of a model or adapter, their headers fetched; None for folders.

    Raises:
        CheckpointError: see ``checkpoint.hub.missing``.
    """
    return missing(text, adapter=adapter) if _local(text, origin) is None else None
