"""Files that commands write: whole, and never over another without ``--force``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evomerge.errors import InputError


def put(text: str, arguments: argparse.Namespace) -> None:
    """Write ``text`` to the file asked for, else print it."""
    if arguments.output:
        write(Path(arguments.output), text, arguments.force)
    else:
        print(text, end="")


def refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path}: exists already; choose another name, or replace it with --force")


def write(path: Path, text: str, force: bool) -> None:
    from evomerge.config import write_text

    refuse_existing(path, force)
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(f"wrote {path}", file=sys.stderr)
