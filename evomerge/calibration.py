"""Calibration data: the texts that statistics of a model are taken from, and how a recipe names them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.config import Section
from evomerge.errors import InputError
from evomerge.passages import read_passages

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Calibration:
    """What a recipe says of its data: ``data: {file: FILE, items: N, digest: ...}``.

    Attributes:
        file: as the user wrote it. Only a name: statistics are found by the digest.
        items: how many passages of it, from the first; None is all.
        digest: of the texts; see ``Texts``.
    """

    file: str = field(compare=False)
    items: int | None = field(compare=False)
    digest: str

    @property
    def plain(self) -> dict[str, Any]:
        """As it stands in a recipe."""
        items = {} if self.items is None else {"items": self.items}
        return {"file": self.file, **items, "digest": self.digest}

    @classmethod
    def parse(cls, section: Section) -> Calibration | None:
        """From the mapping under ``data``; problems are noted in the section."""
        before = len(section.problems.found)
        file = section.text("file", required=True)
        items = section.integer("items", 0, low=1) if "items" in section else None
        digest = section.text("digest", required=True)
        if digest and not _DIGEST.fullmatch(digest):
            section.problem(
                "digest", "expected 64 digits of 0-9 and a-f, as `evomerge measure` says"
            )
        section.finish()
        return cls(file, items, digest) if len(section.problems.found) == before else None


@dataclass(frozen=True)
class Texts:
    """The texts themselves.

    Attributes:
        texts: in order.
        sources: the original of each, where the file says it.
    """

    texts: tuple[str, ...]
    sources: tuple[str | None, ...]

    @classmethod
    def read(cls, path: Path, items: int | None = None) -> Texts:
        """The first ``items`` passages of a file, or all; see ``passages``.

        Raises:
            InputError: the file is absent, empty or malformed, or has fewer passages.
        """
        pairs = read_passages(path)
        if items is not None and len(pairs) < items:
            raise InputError(f"{path}: has {len(pairs)} passages, fewer than the {items} asked for")
        texts, sources = zip(*pairs[:items], strict=True)
        return cls(texts, sources)

    @cached_property
    def digest(self) -> str:
        """sha256 of the texts, in order."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()
