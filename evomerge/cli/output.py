"""Files that commands write: whole, and never over another without ``--force``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import InputError
from evomerge.visible import one_line, visible

if TYPE_CHECKING:
    from evomerge.recipe import Recipe

_STORE = re.compile(r"[a-z][a-z0-9+.-]+://")


def say(text: str) -> None:
    """A line for whoever waits: on standard error, as results alone are on standard output."""
    print(visible(text), file=sys.stderr)


def stage(text: str) -> None:
    """The same of something that is begun."""
    say(f"{text} ...")


def refuse_stores(arguments: argparse.Namespace) -> None:
    """Refuse addresses of object stores where runs are to be.

    Raises:
        InputError: one is given.
    """
    for name in ("run_dir", "folder", "file"):
        given = getattr(arguments, name, None)
        if isinstance(given, str) and (store := _STORE.match(given)):
            raise InputError(
                f"{given}: is in an object store ({store[0]}), and expected was a path: a journal is appended to line by "
                "line, is on the disk before the search goes on, and is locked against a second writer, none of which "
                "an object store can do. Search on a disk, or a network file system, and copy the folder there "
                "when it is done"
            )


def put(text: str, arguments: argparse.Namespace) -> None:
    """Write ``text`` to the file asked for, else print it."""
    if arguments.output:
        write(Path(arguments.output), text, arguments.force)
    else:
        print(visible(text) if sys.stdout.isatty() else text, end="")


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse what is there, unless it may be replaced; what a search cannot go on without may never."""
    if not os.path.lexists(path):
        return
    from evomerge.record.events import JOURNAL, RESPONSES

    if path.name in (JOURNAL, RESPONSES):
        raise InputError(
            f"{path}: is the record of a search, which nothing replaces; choose another name, or delete it yourself"
        )
    if not force:
        raise InputError(f"{path}: exists already; choose another name, or replace it with --force")


def files_of(recipe: Recipe, path: Path) -> list[Path]:
    """What ``save`` writes."""
    rows = recipe.rows_beside(path)
    return [path, *([rows] if rows else [])]


def save(recipe: Recipe, path: Path, force: bool) -> None:
    """A recipe, with its row weights in a file beside it, if it has any."""
    files = files_of(recipe, path)
    for each in files:
        refuse_existing(each, force)
    with _told(*files):
        recipe.save(path)


def write(path: Path, text: str, force: bool) -> None:
    write_all({path: text}, force)


def write_all(texts: Mapping[Path, str], force: bool) -> None:
    """Files that belong together, in this order."""
    from evomerge.config import write_text

    for path in texts:
        refuse_existing(path, force)
    with _told(*texts):
        for path, text in texts.items():
            write_text(path, text)


def write_content(path: Path, content: bytes, force: bool) -> None:
    """A file that is no text."""
    from evomerge.config import write_bytes

    with replacing(path, force):
        write_bytes(path, content)


@contextmanager
def replacing(path: Path, force: bool) -> Iterator[None]:
    """For who writes ``path`` by himself: refuses what is there, makes the folder, says what was written."""
    refuse_existing(path, force)
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def _told(*files: Path) -> Iterator[None]:
    """Says what was written, or that it cannot be."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{files[0]}: cannot be written: {error.strerror}") from None
    say(f"wrote {' and '.join(map(one_line, map(str, files)))}")
