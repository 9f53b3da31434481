"""Objects of a file of JSON lines, each with the place where it stands."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import InputError, did_you_mean
from evomerge.plain_files import open_plain

Row = Mapping[str, Any]


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: it is absent, or no UTF-8.
    """
    try:
        with open_plain(path) as file:
            return io.TextIOWrapper(file, encoding="utf-8").read()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def read_objects(path: Path) -> list[tuple[str, Row]]:
    """The objects of a file, each with its ``file:line``; empty lines are skipped.

    Raises:
        InputError: the file is absent or malformed, with file and line, or holds none.
    """
    found = list(objects_in(read_text(path), path))
    if not found:
        raise InputError(f"{path}: is empty; expected a JSON object a line")
    return found


def objects_in(text: str, path: Path) -> Iterator[tuple[str, Row]]:
    """The same of ``text``, the content of ``path``, which may hold none."""
    # Not splitlines(): JSON text may hold U+2028 and its kin.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: not a JSON object: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
        yield where, row


def check_keys(row: Row, known: Collection[str], where: str) -> None:
    """Refuse an object with a key that says nothing: as a rule it is a known one, misspelt.

    Raises:
        InputError: it has one.
    """
    if unknown := [key for key in row if key not in known]:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], known)}; expected {', '.join(known)}"
        )


def text_under(row: Row, key: str, where: str) -> str:
    """The text of an object under ``key``.

    Raises:
        InputError: there is none.
    """
    found = row.get(key)
    if not isinstance(found, str) or not found:
        raise InputError(
            f"{where}: expected a text under {key!r}{did_you_mean(key, row)}, found {found!r}; keys here: "
            f"{', '.join(row)}"
        )
    return found
