"""Who works on a run: a small file beside the journal, locked for as long as its process lives.

The kernel lets go of the lock of a process that died, however it died, so a file without a lock is what a kill
left. Whether a lock is seen from another machine depends on the file system; where it is not, the file says which
machine to ask. The process may announce there how long it still takes, and how long it waits for a worker.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evomerge.plain_files import open_own
from evomerge.record import clock

NAME = "running.json"
PAUSE = 5.0  # seconds between announcements, at least
_ROOM = 1024  # bytes of the file: what is said is written over what was said, at one stroke
_MALFORMED = (ValueError, TypeError, KeyError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Holder:
    """A process that works on a run, or worked until it was killed.

    Attributes:
        pid: on its machine.
        host: the machine's name.
        since: seconds since the epoch.
        running: None where that cannot be told from here: it is another machine's.
        left: seconds to the final table, as it announced; None where that was not known.
        limit: seconds that a job may tell nothing before its worker counts as hung; None where none does.
        announced: when it said so, in seconds since the epoch; None where it said nothing.
    """

    pid: int
    host: str
    since: float
    running: bool | None = None
    left: float | None = None
    limit: float | None = None
    announced: float | None = None

    @property
    def plain(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Say in ``folder`` that this process works there, until the end of the block.

    Nothing depends on it: where the file cannot be written or locked, nobody is told.
    """
    path, handle = folder / NAME, None
    with suppress(OSError):
        handle = open_own(path, os.O_RDWR | os.O_CREAT)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        _say(handle, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def announce(folder: Path, left: float | None, limit: float | None = None) -> None:
    """Say beside this process's name how many seconds are left to the final table, and may pass without a word.

    It is heard at most every ``PAUSE`` seconds, and by nobody where this process does not hold the folder.
    """
    with suppress(OSError, *_MALFORMED):
        handle = open_own(folder / NAME, os.O_RDWR)
        try:
            found, now = _read(json.loads(os.pread(handle, _ROOM, 0))), time.time()
            recent = found["announced"] is not None and 0 <= now - found["announced"] < PAUSE
            if found["pid"] == os.getpid() and found["host"] == socket.gethostname() and not recent:
                _say(handle, {**found, "left": left, "limit": limit, "announced": now})
        finally:
            os.close(handle)


def _say(handle: int, said: Mapping[str, Any]) -> None:
    os.pwrite(handle, json.dumps(said).encode().ljust(_ROOM), 0)


def holder_of(folder: Path) -> Holder | None:
    """Who works on the run in ``folder``, or was killed there; None where nobody does."""
    try:
        handle = open_own(folder / NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        said = json.loads(os.pread(handle, _ROOM, 0))
        found = _read(said)
        return Holder(**found, running=_is_locked(handle, found["host"]))
    except (OSError, *_MALFORMED):  # half written, or somebody else's file
        return None
    finally:
        os.close(handle)


def _read(said: Mapping[str, Any]) -> dict[str, Any]:
    found = {"pid": int(said["pid"]), "host": str(said["host"]), "since": _seconds(said["since"])}
    announced = {name: said.get(name) for name in ("left", "limit", "announced")}
    return found | {
        name: None if value is None else _seconds(value) for name, value in announced.items()
    }


def _seconds(value: Any) -> float:
    if not 0 <= float(value) <= clock.LONGEST:
        raise ValueError(f"{value!r:.60} where seconds were expected")
    return float(value)


def _is_locked(handle: int, host: str) -> bool | None:
    """Whether the process lives: it holds the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False if host == socket.gethostname() else None
