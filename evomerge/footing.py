"""What a search rests on: the files behind its models and scorers, compared wherever and whenever they are read.

Each file is remembered with its size, time and inode, and with the sha256 of its content. Where the first three are
the same, the file is; where they differ, as on another machine or after `touch`, its content is compared.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint import Checkpoint
from evomerge.checkpoint.contents import files_of
from evomerge.checkpoint.files import Stamp, file_digest
from evomerge.errors import InputError


class Changed(Exception):
    """A file is not what it was; says how."""


@dataclass(frozen=True)
class Kept:
    """A file as it was."""

    stamp: Stamp
    sha256: str

    def again(self, path: Path) -> Kept:
        """The same as it is now, at ``path``.

        Raises:
            Changed: it is not there, or holds something else.
        """
        try:
            now = Stamp.of(path)
            if now == self.stamp:
                return self
            if file_digest(path) == self.sha256:
                return replace(self, stamp=now)
        except OSError as error:
            raise Changed(f"cannot be read ({error.strerror})") from None
        raise Changed("holds something else")


@dataclass(frozen=True)
class Asked:
    """A scorer as it was: its fingerprint, and its files by name."""

    fingerprint: str
    files: Mapping[str, Kept]


@dataclass(frozen=True)
class Footing:
    """What the driver of a search found, for workers on machines that may see other files.

    Attributes:
        host: the driver's machine.
        models: by name, each with its files by their name in the model.
        scorers: by name.
        code: whether Python files of models count.
    """

    host: str
    models: Mapping[str, Mapping[str, Kept]]
    scorers: Mapping[str, Asked]
    code: bool = False

    @property
    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Footing:
        models = {name: _files(files) for name, files in plain["models"].items()}
        scorers = {
            name: Asked(each["fingerprint"], _files(each["files"]))
            for name, each in plain["scorers"].items()
        }
        return cls(plain["host"], models, scorers, plain["code"])

    def check_models(self, models: Mapping[str, Checkpoint]) -> None:
        """Refuse models that are others on this machine than on the driver's; those that are the same may be touched.

        Raises:
            InputError: with this machine, the model and the file.
        """
        for name, model in models.items():
            known, found = self.models[name], files_of(model, code=self.code)
            with _told(name):
                _compare(known, {**{file: model.folder / file for file in known}, **found})
            model.known = {path: known[file].sha256 for file, path in found.items()}

    def check_scorers(self, scorers: Mapping[str, Any]) -> None:
        """Refuse data, task files or code of scorers that are others on this machine than on the driver's.

        Raises:
            InputError: with this machine, the scorer and the file.
        """
        for name, scorer in scorers.items():
            known, elsewhere = self.scorers[name], socket.gethostname() != self.host
            with _told(name):
                _compare(known.files, sources_of(scorer))
                if elsewhere and scorer.fingerprint != known.fingerprint:
                    raise Changed(
                        "its data are other ones, or another version of a library makes them"
                    )


def sources_of(scorer: Any) -> Mapping[str, Path]:
    """The files behind a scorer, by name; a plugin's may name none."""
    found: Mapping[str, Path] = getattr(scorer, "sources", {})
    return found


def _files(plain: Mapping[str, Any]) -> dict[str, Kept]:
    return {name: Kept(Stamp(*each["stamp"]), each["sha256"]) for name, each in plain.items()}


def _compare(known: Mapping[str, Kept], found: Mapping[str, Path]) -> None:
    for name, path in found.items():
        if name not in known:
            raise Changed(f"{path}: this file was not there")
        try:
            known[name].again(path)
        except Changed as error:
            raise Changed(f"{path}: this file {error}") from None
    if lacking := sorted(known.keys() - found.keys()):
        raise Changed(f"{lacking[0]}: this file is not there")


@contextmanager
def _told(whose: str) -> Iterator[None]:
    try:
        yield
    except Changed as error:
        raise InputError(
            f"{whose} on {socket.gethostname()}: {error}. It is not what the search was started with: every machine "
            "that works on it must see the same models and data"
        ) from None
