"""Keyed randomness: every draw is a function of what it is for.

No generator state is stored anywhere. A draw is named by a key, for example
``(run seed, "subset", batch, task)``; equal keys give equal draws in any process, in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Part = str | int


def key(*parts: Part) -> int:
    """A 128-bit integer that names a draw: a hash of ``parts``, stable over time and machines."""
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def keys(parts: Sequence[Part], last: Sequence[str]) -> list[int]:
    """``key(*parts, text)`` of each text of ``last``, sooner; ``parts`` are not empty."""
    begin = json.dumps(parts, separators=(",", ":"), ensure_ascii=True)[:-1]
    known = hashlib.blake2b(f"{begin},".encode(), digest_size=16)
    found = []
    for text in last:
        state = known.copy()
        state.update(f"{json.dumps(text)}]".encode())
        found.append(int.from_bytes(state.digest(), "little"))
    return found


def generator(*parts: Part) -> np.random.Generator:
    """A fresh NumPy generator for the draw named by ``parts``."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def small(*parts: Part) -> int:
    """A 31-bit seed, for libraries that take nothing longer."""
    return key(*parts) & 0x7FFFFFFF


def unit(*parts: Part) -> float:
    """One number in [0, 1), from the key alone."""
    return (key(*parts) >> 64) / 2.0**64


def uniforms(size: int, *parts: Part) -> NDArray[np.float32]:
    """``size`` float32 numbers in [0, 1), multiples of 2**-24.

    Taken from the raw counter stream, whose values NumPy guarantees, not from ``Generator``
    methods, whose streams may change between NumPy versions.
    """
    raw = np.random.Philox(key=key(*parts)).random_raw((size + 1) // 2).astype("<u8", copy=False)
    words = raw.view("<u4")[:size]
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
