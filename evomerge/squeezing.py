"""Short texts, compressed as fast as long ones."""

from __future__ import annotations

import zlib


def squeeze(text: bytes, level: int = 6) -> bytes:
    """``text`` in zlib's format, which ``zlib.decompress`` reads.

    Room is made for as much as there is: 256 KB for every text, as ``zlib.compress`` makes, take longer to get than
    one kilobyte takes to compress.
    """
    bits = min(max(len(text).bit_length(), 9), zlib.MAX_WBITS)
    packer = zlib.compressobj(level, zlib.DEFLATED, bits, bits - 7)  # at most 8, as usual
    return packer.compress(text) + packer.flush()
