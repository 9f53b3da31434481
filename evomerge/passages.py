"""Passages of a text file: what perplexity is scored on, and what statistics are taken from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evomerge.errors import InputError
from evomerge.objects import objects_in, read_text, text_under


def read_passages(path: Path, field: str = "text") -> list[tuple[str, str | None]]:
    """The passages of a file, each with the name of its original, where the file says it.

    A ``.jsonl`` file has one object a line, the passage in ``field`` and the original's name in
    ``source_id``; any other file is text, its passages separated by blank lines.

    Raises:
        InputError: the file is absent, empty or malformed, with file and line.
    """
    text = read_text(path)
    pairs: list[tuple[str, str | None]]
    if path.suffix == ".jsonl":
        pairs = list(_objects(text, path, field))
    else:
        pairs = [(p, None) for p in map(str.strip, _blank_line_separated(text)) if p]
    if not pairs:
        raise InputError(f"{path}: holds no passage; expected text")
    return pairs


def _blank_line_separated(text: str) -> Iterator[str]:
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            block.append(line)
        else:
            yield "\n".join(block)
            block = []


def _objects(text: str, path: Path, field: str) -> Iterator[tuple[str, str | None]]:
    for where, row in objects_in(text, path):
        source = row.get("source_id")
        yield text_under(row, field, where), None if source is None else str(source)
