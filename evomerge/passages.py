"""Passages of a text file: what perplexity is scored on, and what statistics are taken from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from evomerge.errors import InputError, did_you_mean


def read_passages(path: Path, field: str = "text") -> list[tuple[str, str | None]]:
    """The passages of a file, each with the name of its original, where the file says it.

    A ``.jsonl`` file has one object a line, the passage in ``field`` and the original's name in
    ``source_id``; any other file is text, its passages separated by blank lines.

    Raises:
        InputError: the file is absent, empty or malformed, with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
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
    # Not splitlines(): JSON text may hold U+2028 and its kin.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not a JSON object: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
        passage = row.get(field)
        if not isinstance(passage, str) or not passage:
            raise InputError(
                f"{where}: expected a text under {field!r}{did_you_mean(field, row)}, "
                f"found {passage!r}; keys here: {', '.join(row)}"
            )
        source = row.get("source_id")
        yield passage, None if source is None else str(source)
