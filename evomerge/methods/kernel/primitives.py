"""Words of the compiled passes: what they do to single numbers, spelled for the compiler.

Every type is written out, since Numba widens whole numbers to 64 bits, which halves a vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.methods.kernel import draws

UNIT = 2.0**-24  # of uniforms


def widen(bits: Any) -> Any:
    """bfloat16 bits as float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


def narrow(value: Any) -> Any:
    """float32 as bfloat16 bits, to nearest even."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    short = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.uint16(0x7FC0) if value != value else np.uint16(short)  # rounding may break a NaN


def brokenness(value: Any) -> Any:
    """A word whose highest bit is set for NaN and infinity: their exponent overflows into it."""
    exponent = np.uint32(np.float32(value).view(np.uint32) & np.uint32(0x7F800000))
    return np.uint32(exponent + np.uint32(0x00800000))


def draw(start: Any, stride: Any, index: Any) -> Any:
    """The upper 24 bits of a draw's word, as in ``draws``."""
    word = np.uint32(np.uint32(index * stride) + start)
    word = np.uint32(word ^ np.uint32(word >> np.uint32(16)))
    word = np.uint32(word * np.uint32(draws.FIRST))
    word = np.uint32(word ^ np.uint32(word >> np.uint32(15)))
    word = np.uint32(word * np.uint32(draws.SECOND))
    word = np.uint32(word ^ np.uint32(word >> np.uint32(15)))
    return np.uint32(word >> np.uint32(8))


def uniform(start: Any, stride: Any, index: Any) -> Any:
    """A draw in [0, 1)."""
    return np.float32(draw(start, stride, index)) * UNIT


def whole(value: Any) -> Any:
    """The nearest whole number."""
    return np.int32(np.rint(value))
