"""The dtype that models are scored in while a search goes on, and what another one costs."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

import torch
from torch.nn.functional import linear

# Instructions, as Linux lists them, that multiply matrices of a dtype faster than of float32. Intel's
# avx512_bf16 alone does not (half as fast, measured with torch 2.13), AMD's does (four times as fast).
_FAST = {"bfloat16": {"amx_bf16", "bf16"}, "float16": {"amx_fp16"}}
_FAST_ON_AMD = {"bfloat16": {"avx512_bf16"}, "float16": set[str]()}

MOST, TOKENS = 1024, 128  # of a layer that is timed


def scoring_dtype(asked: str, dtype: str, device: str) -> str:
    """``asked``, or for ``auto`` the recipes' ``dtype`` where ``device`` computes fast in it, else float32."""
    if asked != "auto":
        return asked
    if device != "cpu" or dtype not in _FAST:
        return dtype
    vendor, instructions = _processor()
    fast = _FAST[dtype] | (_FAST_ON_AMD[dtype] if vendor == "AuthenticAMD" else set())
    return "float32" if fast.isdisjoint(instructions) else dtype


def extra(dtype: str, than: str, shape: tuple[int, int], threads: int) -> float:
    """Seconds a weight and token that a linear layer takes more in ``dtype`` than in another, measured in milliseconds.

    A CPU without instructions for half precision takes five to ten times as long in it (torch 2.13). 0 where there is a
    GPU, which has them.

    Args:
        shape: of a usual weight; of a larger one no more than ``MOST`` counts.
        threads: of a worker.
    """
    if torch.cuda.is_available():
        return 0.0
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _seconds(dtype, shape) - _seconds(than, shape)
    finally:
        torch.set_num_threads(before)


def _seconds(dtype: str, shape: tuple[int, int]) -> float:
    """A weight and token, by the shortest of a few passes."""
    height, width = (min(side, MOST) for side in shape)
    inputs, weight = (
        torch.ones(each, dtype=getattr(torch, dtype)) for each in [(TOKENS, width), (height, width)]
    )
    taken = []
    for _ in range(5):  # the first finds nothing ready
        began = time.perf_counter()
        linear(inputs, weight)
        taken.append(time.perf_counter() - began)
    return min(taken) / (TOKENS * height * width)


def _processor() -> tuple[str, Collection[str]]:
    """Vendor and instructions of this machine's CPU, as Linux lists them; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "", ()
    facts = {
        key.strip().lower(): text.strip() for key, _, text in (x.partition(":") for x in lines)
    }
    listed = facts.get("flags") or facts.get("features") or ""
    return facts.get("vendor_id", ""), set(listed.split())
