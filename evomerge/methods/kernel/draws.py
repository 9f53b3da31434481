"""Uniforms from a key and an index: each entry's draw is a function of where it stands.

A counter is multiplied by an odd number and shifted (a Weyl sequence of its own for each key), then
mixed: SplitMix (Steele, Lea and Flood 2014) with 32-bit words. No state, so tiles, threads and
devices draw the same. The mixer's constants are from C. Wellons' search (public domain).
"""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge import seeds

WORD = 0xFFFFFFFF
FIRST, SECOND = 0x21F0AAAD, 0xD35A2D97


def stream(key: int, index: int) -> tuple[int, int]:
    """Where the counter of ``key`` stands at ``index``, and its stride.

    Each run of 2**32 indices has a key of its own.
    """
    if index >> 32:
        key = seeds.key(key, index >> 32)
    stride = key & WORD | 1
    return ((key >> 32) + (index & WORD) * stride) & WORD, stride


def uniforms(key: int, start: int, stop: int, device: torch.device) -> Tensor:
    """The draws of flat indices ``start..stop``: float32 multiples of 2**-24 in [0, 1)."""
    first, stride = stream(key, start)
    return _mixed((torch.arange(stop - start, device=device) * stride + first) & WORD)


def uniforms_at(key: int, at: Tensor) -> Tensor:
    """The draws of the flat indices ``at`` [n], one or more, the same as ``uniforms`` gives them; float32 [n]."""
    first, last = int(at.min()) >> 32, int(at.max()) >> 32
    if first == last:
        return _mixed(_words(key, first, at))
    found = torch.empty(at.shape, dtype=torch.float32, device=at.device)
    for number in range(first, last + 1):
        inside = at >> 32 == number
        found[inside] = _mixed(_words(key, number, at[inside]))
    return found


def _words(key: int, number: int, at: Tensor) -> Tensor:
    """The counters of indices in run ``number`` of 2**32."""
    first, stride = stream(key, number << 32)
    # a product beyond 64 bits keeps its lower ones, and no others count
    return ((at & WORD) * stride + first) & WORD


def _mixed(word: Tensor) -> Tensor:
    """Numbers in [0, 1) from 32-bit counters, held in int64."""
    word = word ^ word >> 16
    word = word * FIRST & WORD
    word = word ^ word >> 15
    word = word * SECOND & WORD
    word = word ^ word >> 15
    return (word >> 8).float() * 2.0**-24


def draw_key(seed: int, tensor: str, model: str) -> int:
    """The key of one model's draws for one tensor."""
    return seeds.key(seed, "noise", tensor, model) & (1 << 64) - 1
