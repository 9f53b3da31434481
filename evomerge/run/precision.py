"""The dtype that models are scored in while a search goes on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

# What Linux calls instructions that multiply matrices of a dtype as fast as, or faster than, float32.
_FAST = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16"},
}


def scoring_dtype(asked: str, dtype: str, device: str) -> str:
    """``asked``, or for ``auto`` the recipes' ``dtype`` where ``device`` computes fast in it, else float32."""
    if asked != "auto":
        return asked
    fast = device != "cpu" or dtype not in _FAST or not _FAST[dtype].isdisjoint(_instructions())
    return dtype if fast else "float32"


def _instructions() -> Collection[str]:
    """Of this machine's CPU, as Linux lists them; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    flags = (
        line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))
    )
    return set(next(flags, "").split())
