"""Who has seen which report items before: a file beside the fitness file, ``NAME.looks.jsonl``.

Report items tell the truth once: whoever changes a search after seeing them has searched on them.
A look is a line with the date, what was scored, and a short hash of each item. It counts for every
fitness file of the folder, so a copy, another limit, share or partition does not make items unseen.
No result depends on these files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evomerge import durable
from evomerge.errors import InputError
from evomerge.plain_files import open_own, read_plain
from evomerge.suite.splits import Split
from evomerge.suite.suite import Suite

_HASH = 5  # bytes: beside a million seen items, another passes for one of them with chance 1e-6
_log = logging.getLogger("evomerge.run")


@dataclass(frozen=True)
class Look:
    """One opening of report items.

    Attributes:
        date: in UTC, ISO 8601.
        by: the command.
        model: what was scored; of a search, its folder.
        digest: of the recipe, or of the run.
        items: the hashes of all items, in hexadecimal, in order.
    """

    date: str
    by: str
    model: str = field(compare=False)  # a folder may move
    digest: str
    items: str

    @property
    def hashes(self) -> set[str]:
        return {self.items[at : at + 2 * _HASH] for at in range(0, len(self.items), 2 * _HASH)}


@dataclass(frozen=True)
class Earlier:
    """Earlier looks at some of ``count`` report items, in order; ``seen`` of these were looked at.

    There may be more of them if there are ``problems``: lines and files that could not be read.
    """

    looks: Sequence[Look]
    seen: int
    count: int
    problems: Sequence[str]

    def __str__(self) -> str:
        if not self.looks:
            if self.problems:
                return "it is not known whether these report items had been looked at before"
            return "no fitness file of this folder had looked at these report items before"
        last = self.looks[-1]
        often = f"{len(self.looks)} times, last " if len(self.looks) > 1 else ""
        return (
            f"{'at least ' if self.problems else ''}{self.seen} of the {self.count} report items had been "
            f"looked at before ({often}on {last.date[:10]} by `evomerge {last.by}` with {last.model})"
        )

    def refuse(self) -> None:
        """Let nobody look again without having said so.

        Raises:
            InputError: there are earlier looks, or there may be.
        """
        if self.problems:
            raise InputError("\n".join(self.problems))
        if self.looks:
            raise InputError(
                f"{self}. What was seen there may have shaped this model: choose by --split select, or "
                "say --again to look once more; that is recorded, too"
            )

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON, without the hashes."""
        looks = [{**asdict(look), "items": len(look.hashes)} for look in self.looks]
        return {"text": str(self), "seen": self.seen, "of": self.count, "before": looks}


class Book:
    """The looks at the report items of one suite, and where to write the next.

    Args:
        suite: was read from a file.
    """

    def __init__(self, suite: Suite) -> None:
        file = Path(suite.spec.file).resolve()
        self.path = file.with_name(f"{file.stem}.looks.jsonl")
        self._hashes = _hashes(suite)

    def look(self, time: float, by: str, model: str, digest: str) -> Look:
        """A look at these items; ``time`` is in seconds since the epoch."""
        date = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")
        return Look(date, by, model, digest, "".join(sorted(set(self._hashes))))

    def read(self) -> Earlier:
        """Looks at any of these items, by whatever fitness file of the folder."""
        looks, problems = list[Look](), list[str]()
        for path in sorted(self.path.parent.glob("*.looks.jsonl")):
            _read(path, looks, problems)
        return self._overlapping(sorted(looks, key=lambda look: look.date), problems)

    def record(self, look: Look) -> Earlier:
        """Write ``look`` down, once; the looks before it.

        What cannot be read or written is told of, and work goes on.
        """
        known = self.read()
        for problem in known.problems:
            _log.warning(problem)
        if look not in known.looks:
            self._write(look)
        earlier = [each for each in known.looks if each.date < look.date]
        return self._overlapping(earlier, known.problems)

    def _overlapping(self, looks: Sequence[Look], problems: Sequence[str]) -> Earlier:
        wanted = set(self._hashes)
        found = [look for look in looks if not wanted.isdisjoint(look.hashes)]
        seen = set[str]().union(*(look.hashes for look in found))
        count = sum(each in seen for each in self._hashes)
        return Earlier(found, count, len(self._hashes), problems)

    def _write(self, look: Look) -> None:
        line = json.dumps(asdict(look)).encode() + b"\n"
        try:
            handle = open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                end = os.fstat(handle).st_size
                torn = end and os.pread(handle, 1, end - 1) != b"\n"
                durable.append(handle, b"\n" * bool(torn) + line)
            finally:
                os.close(handle)
        except OSError as error:
            _log.warning(
                "%s: cannot be written (%s): this look at the report split is not recorded; keep count of "
                "it yourself",
                self.path,
                error.strerror,
            )


def _hashes(suite: Suite) -> list[str]:
    """Of each report item.

    By what it asks: an item is seen under whatever id, or name of its task. Only one without a text
    goes by these.
    """
    found = []
    for name, ids in suite.splits[Split.REPORT].items():
        texts = {item.id: item.text for item in suite.scorers[name].items()}
        for id in ids:
            key = json.dumps([texts[id]] if texts[id] else [name, id])
            found.append(hashlib.blake2b(key.encode(), digest_size=_HASH).hexdigest())
    return found


def _read(path: Path, looks: list[Look], problems: list[str]) -> None:
    """Add what one file holds to ``looks``, and what is wrong with it to ``problems``."""
    try:
        lines = read_plain(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: looks at report items cannot be read: {error}")
        return
    for number, line in enumerate(lines, start=1):
        try:
            look = Look(**json.loads(line))
            texts = all(isinstance(value, str) for value in asdict(look).values())
            whole = texts and len(bytes.fromhex(look.items)) % _HASH == 0
        except (ValueError, TypeError, RecursionError):
            whole = False
        if whole:
            looks.append(look)
        else:
            problems.append(
                f"{path}:{number}: not a look at report items as this version writes it, so that it does "
                f"not tell which items were seen: {line[:60]!r}; delete this line, and keep count of it "
                "yourself"
            )
