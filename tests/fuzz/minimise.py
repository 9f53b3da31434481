"""The smallest part of an input that still fails as the whole does."""

from __future__ import annotations

from collections.abc import Callable

MOST = 400  # times that an input is tried


def minimised(content: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """``content`` without whatever can be left out: first halves of its lines, last single bytes.

    Args:
        content: fails.
        fails: whether a smaller one does, too.
    """
    tried = 0
    for parts in (content.splitlines(keepends=True), None):
        pieces = list(parts if parts is not None else (bytes([byte]) for byte in content))
        size = len(pieces) // 2
        while size and tried < MOST:
            at = 0
            while at < len(pieces) and tried < MOST:
                shorter = pieces[:at] + pieces[at + size :]
                tried += 1
                if shorter and fails(b"".join(shorter)):
                    pieces = shorter
                else:
                    at += size
            size //= 2
        content = b"".join(pieces)
    return content
