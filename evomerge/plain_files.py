"""Files that are files: no link leads elsewhere, no pipe is waited for without end, no device fills the memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO


class NotPlain(OSError):
    """It is no plain file of its own."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EINVAL, why)

    def __str__(self) -> str:
        return str(self.strerror)


def open_plain(path: Path) -> IO[bytes]:
    """``path`` to be read.

    Raises:
        OSError: it cannot be, or is no plain file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise NotPlain("it is no plain file")
    return path.open("rb")


def read_plain(path: Path) -> bytes:
    """All of ``path``; see ``open_plain``."""
    with open_plain(path) as file:
        return file.read()


def open_own(path: str | os.PathLike[str], flags: int) -> int:
    """A handle of a file of a run's own, made if ``flags`` say so.

    A run that somebody else made may hold links: what is written must not land where they lead to.

    Raises:
        OSError: it cannot be opened, or is not a plain file of one name.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotPlain("it is a link; expected the file itself") from None
        raise
    found, why = os.fstat(handle), ""
    if not stat.S_ISREG(found.st_mode):
        why = "it is no plain file"
    elif found.st_nlink > 1 and flags & os.O_RDWR:
        why = "it has another name, too, a hard link; expected a copy"
    if why:
        os.close(handle)
        raise NotPlain(why)
    return handle
