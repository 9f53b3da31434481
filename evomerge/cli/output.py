"""Files that commands write: whole, and never over another without ``--force``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import InputError

if TYPE_CHECKING:
    from evomerge.recipe import Recipe


def put(text: str, arguments: argparse.Namespace) -> None:
    """Write ``text`` to the file asked for, else print it."""
    if arguments.output:
        write(Path(arguments.output), text, arguments.force)
    else:
        print(text, end="")


def refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; choose another name, or replace it with --force")


def save(recipe: Recipe, path: Path, force: bool) -> None:
    """A recipe, with its row weights in a file beside it, if it has any."""
    refuse_existing(path, force)
    rows = recipe.rows_beside(path)
    if rows is not None:
        refuse_existing(rows, force)
    try:
        recipe.save(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(f"wrote {path}" + (f" and {rows}" if rows else ""), file=sys.stderr)


def write(path: Path, text: str, force: bool) -> None:
    from evomerge.config import write_text

    refuse_existing(path, force)
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(f"wrote {path}", file=sys.stderr)
