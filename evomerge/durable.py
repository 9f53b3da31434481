"""Bytes that are on the disk when a call returns, or not there at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from evomerge.errors import RunError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def append(handle: int, data: bytes) -> int:
    """Write ``data`` at the end of an open file, and wait for the disk; where it begins.

    What fails half way is cut off again, also for a KeyboardInterrupt: nothing joins half a piece.

    Raises:
        OSError: the disk is full or failing; see ``why``.
    """
    start = os.fstat(handle).st_size
    try:
        rest, at = memoryview(data), start
        while rest:
            written = os.pwrite(handle, rest, at)
            rest, at = rest[written:], at + written
        os.fsync(handle)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(handle, start)
        raise
    return start


def cut(handle: int, size: int) -> None:
    """Cut a file off at ``size`` bytes, and wait for the disk."""
    os.ftruncate(handle, size)
    os.fsync(handle)


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_there(handle: int, path: Path) -> None:
    """Refuse to write into an open file that nobody would find at ``path``.

    Raises:
        RunError: it was deleted, moved or replaced since it was opened.
    """
    opened = os.fstat(handle)
    try:
        found = path.stat()
    except OSError as error:
        how = f"cannot be reached ({error.strerror})"
    else:
        if (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino):
            return
        how = "was replaced by another file"
    if not opened.st_nlink:
        raise RunError(
            f"{path}: this file was deleted while the search ran; without a copy of it, search anew"
        )
    with suppress(OSError):  # Linux tells
        if (now := os.readlink(f"/proc/self/fd/{handle}")) != str(path):
            how = f"was moved, to {now},"
    raise RunError(
        f"{path}: this file {how} while the search ran. Nothing of it is lost: bring it back and resume the run, or "
        "resume it where it is"
    )


def full(error: BaseException) -> bool:
    """True for "no space left", also as safetensors words it."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(
        text in str(error)
        for text in ("No space left", "os error 28", "File too large", "os error 27")
    )


def why(error: OSError) -> str:
    """``the disk is full (No space left on device)``, for messages."""
    how = "full" if full(error) else "read-only" if error.errno in READ_ONLY else "failing"
    return f"the disk is {how} ({error.strerror})"


def remedy(error: OSError) -> str:
    """``make room``, for messages."""
    return "make room" if full(error) else "mend that"
