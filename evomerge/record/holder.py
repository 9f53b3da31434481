"""Who works on a run: a small file beside the journal, locked for as long as its process lives.

The kernel lets go of the lock of a process that died, however it died, so a file without a lock is what a kill
left. Whether a lock is seen from another machine depends on the file system; where it is not, the file says which
machine to ask.
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

NAME = "running.json"


@dataclass(frozen=True)
class Holder:
    """A process that works on a run, or worked until it was killed.

    Attributes:
        pid: on its machine.
        host: the machine's name.
        since: seconds since the epoch.
        running: None where that cannot be told from here: it is another machine's.
    """

    pid: int
    host: str
    since: float
    running: bool | None = None

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
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        said = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(said).encode(), 0)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def holder_of(folder: Path) -> Holder | None:
    """Who works on the run in ``folder``, or was killed there; None where nobody does."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        said = json.loads(os.pread(handle, 4096, 0))
        found = _read(said)
        return Holder(**found, running=_is_locked(handle, found["host"]))
    except (OSError, ValueError, TypeError, KeyError):  # half written, or somebody else's file
        return None
    finally:
        os.close(handle)


def _read(said: Mapping[str, Any]) -> dict[str, Any]:
    return {"pid": int(said["pid"]), "host": str(said["host"]), "since": float(said["since"])}


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
