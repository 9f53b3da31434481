"""The journal: an append-only log of events, one JSON object a line. It is the run's checkpoint.

An event is a dict of plain data with an ``"event"`` key. It is on the disk before ``append``
returns, so a crash can tear the last line only, and a torn line is an event that never happened.
Numbers round-trip exactly.

The last key of a line, ``"sum"``, is the CRC-32 of the line before it and of the event itself: a
line that was changed, and the first one after lines that were taken out or put in, is found.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from evomerge import durable
from evomerge.errors import InputError, RunError
from evomerge.plain_files import open_own

Event = dict[str, Any]

_log = logging.getLogger("evomerge.record.journal")
FORMAT = 7
_CHUNK = 2**22  # bytes that are read at a time
_SUM = re.compile(rb',"sum":"([0-9a-f]{8})"}$')
_SUM_LENGTH = 18


@dataclass(frozen=True)
class Place:
    """Behind a line of a journal: bytes and lines up to there, and the line's sum."""

    size: int = 0
    lines: int = 0
    sum: int = 0


def read(path: str | os.PathLike[str]) -> list[Event]:
    """The events of the journal at ``path``, also while a search writes it.

    Raises:
        InputError: the file is absent, unreadable or damaged.
    """
    found = []
    for number, text in enumerate(texts(path), start=1):
        if (event := _decode(text)) is None:
            raise damaged(path, number, _no_event(text))
        found.append(event)
    return found


def texts(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The JSON texts of its events, one after the other; what they hold is not looked at.

    Raises:
        InputError: see ``read``.
    """
    for text, _ in behind(path, Place()):
        yield text


def behind(path: str | os.PathLike[str], start: Place) -> Iterator[tuple[bytes, Place]]:
    """The texts behind a place, each with the place behind it.

    Raises:
        InputError: see ``read``.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start.size)
            content = file.read()
    except FileNotFoundError:
        raise InputError(f"{path}: no such journal; is this the folder of a run?") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    yield from _parse(content, path, start)


def checksum(path: str | os.PathLike[str], start: int, end: int, sum: int = 0) -> int:
    """The CRC-32 of some bytes of a file, behind others that have the CRC-32 ``sum``.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(start)
        while start < end and (part := file.read(min(_CHUNK, end - start))):
            start, sum = start + len(part), zlib.crc32(part, sum)
    return sum


def damaged(path: str | os.PathLike[str], line: int, why: str) -> InputError:
    """What to raise where a line of the journal at ``path`` cannot be what was written."""
    return InputError(
        f"{path}:{line}: the journal is damaged: {why}. Restore the file from a copy, or delete "
        f"line {line} and all after it: the search then resumes from line {line - 1}"
    )


class Journal:
    """The journal of one run, held by the one process that may write it.

    It holds no event in memory; ``count`` is how many are on the disk.
    """

    def __init__(self, path: Path, count: int, handle: int | None, sum: int = 0) -> None:
        self.path = path
        self.count = count
        self._handle = handle
        self._sum = sum  # of the last line

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, writable: bool = True) -> Journal:
        """Open the journal at ``path``; if writable, create and lock it and cut off a torn tail.

        Raises:
            InputError: it cannot be read or written, is damaged, or another search writes it.
        """
        path = Path(path)
        if not writable:
            return cls(path, sum(1 for _ in texts(path)), None)
        try:
            handle = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise InputError(
                f"{path}: the journal cannot be written: {error.strerror}; a search needs an "
                "existing folder that it may write to"
            ) from None
        try:
            _lock(handle, path)
            durable.sync(path.parent)  # a new file's name is as durable as its content
            content = path.read_bytes()
            good = Place()
            for _, place in _parse(content, path, Place()):
                good = place
            if not good.lines and not _is_begun(content):
                raise InputError(f"{path}: is no journal: it begins with {content[:40]!r}")
            if good.size < len(content):
                durable.cut(handle, good.size)
                _log.warning(
                    "%s: dropped an unfinished last line, %d bytes", path, len(content) - good.size
                )
        except BaseException:
            os.close(handle)
            raise
        return cls(path, good.lines, handle, good.sum)

    def append(self, event: Event) -> None:
        """Add ``event``; it is on the disk when this returns, or not in the journal at all.

        Raises:
            RunError: the disk is full or failing, or the file is no longer at its path.
            ValueError: the event has no ``"event"`` key or holds NaN or infinity, or the journal is
                not open for writing.
        """
        if self._handle is None:
            raise ValueError(f"{self.path}: not open for writing")
        self.check_there()
        if "event" not in event:
            raise ValueError(f"not an event: {event!r:.200}")
        text, sum = _encode(event, self._sum)
        try:
            durable.append(self._handle, text)
        except OSError as error:
            raise RunError(
                f"{self.path}: {durable.why(error)}. The journal is intact up to its last "
                f"event: {durable.remedy(error)} and resume the run"
            ) from error
        self._sum = sum
        self.count += 1

    def check_there(self) -> None:
        """Refuse to go on with a journal that nobody would find.

        Raises:
            RunError: it was deleted, moved or replaced since it was opened.
        """
        if self._handle is not None:
            durable.check_there(self._handle, self.path)

    def close(self) -> None:
        """Let go of the file and its lock; closing twice is fine."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _encode(event: Event, before: int) -> tuple[bytes, int]:
    """The line of ``event`` after a line with the sum ``before``, and its own sum."""
    body = text_of(event)
    sum = zlib.crc32(body, before)
    return body[:-1] + b',"sum":"%08x"}\n' % sum, sum


def text_of(event: Event) -> bytes:
    """The JSON text of an event.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    text = json.dumps(event, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair has no UTF-8; JSON can escape it
        return json.dumps(event, allow_nan=False, separators=(",", ":")).encode()


def _parse(
    content: bytes, path: str | os.PathLike[str], place: Place
) -> Iterator[tuple[bytes, Place]]:
    """The texts of the events in ``content``, which begins at ``place``, each with the place behind it (a torn tail is
    no event)."""
    start, before, count, sum = 0, place.size, place.lines, place.sum
    while (end := content.find(b"\n", start)) >= 0:
        line = content[start:end]
        match = _SUM.match(line, max(0, len(line) - _SUM_LENGTH))
        if match is None and not count:
            _refuse_format(line, path)
        body = line[: match.start()] + b"}" if match else b""
        if match is None or zlib.crc32(body, sum) != int(match[1], 16):
            # a line that was begun as one was written whole, and changed later
            if end + 1 == len(content) and not line.startswith(b'{"event":'):
                break
            why = "this line, or lines before it, are not what was written"
            raise damaged(path, count + 1, why if _decode(body) else _no_event(line))
        start, sum, count = end + 1, int(match[1], 16), count + 1
        yield body, Place(before + start, count, sum)


def _is_begun(content: bytes) -> bool:
    """Whether a file without a whole line may be what is left of a journal's first one; a disk may have left zeros."""
    return content.startswith(b"{") or not content.strip(b"\0")


def _refuse_format(line: bytes, path: str | os.PathLike[str]) -> None:
    """Refuse the journal of another version by its first line."""
    event = _decode(line)
    if event is not None:
        raise InputError(
            f"{path}:1: not the journal of a run in format {FORMAT} (found {str(event['event'])[:60]!r}, "
            f"format {event.get('format')!r}); use the evomerge version that wrote it, or another folder"
        )


def _no_event(text: bytes) -> str:
    return f"expected a JSON object with the keys 'event' and 'sum', found {text[:60]!r}"


def _decode(body: bytes) -> Event | None:
    try:
        event = loads(body)
    except (ValueError, RecursionError):  # neither JSON nor UTF-8, or nested without end
        return None
    return event if isinstance(event, dict) and "event" in event else None


def loads(body: bytes) -> Any:
    """What ``json.loads`` reads, in a tenth of the time where it can be: not half a surrogate pair."""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return json.loads(body, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(found := float(text)):
        raise ValueError(f"{text} is beyond all numbers")
    return found


def _lock(handle: int, path: Path) -> None:
    """Hold the file as its one writer until it is closed; the kernel frees the lock of the dead."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{path}: another search is writing this run{_holder(handle)}; wait for it, stop "
            "it, or search in another folder"
        ) from None
    except OSError as error:  # some network file systems have no locks
        _log.warning("%s: cannot be locked (%s): run one search at a time", path, error.strerror)


def _holder(handle: int) -> str:
    """``" (pid N)"`` of the process that holds the lock, where the system tells (Linux)."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF
            _, kind, *_, pid, place, _, _ = line.split()
            if kind == "FLOCK" and place.endswith(f":{os.fstat(handle).st_ino}"):
                return f" (pid {pid})"
    return ""
