"""The dtype that models are scored in while a search goes on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

# Instructions, as Linux lists them, that multiply matrices of a dtype faster than of float32. Intel's
# avx512_bf16 alone does not (half as fast, measured with torch 2.13), AMD's does (four times as fast).
_FAST = {"bfloat16": {"amx_bf16", "bf16"}, "float16": {"amx_fp16"}}
_FAST_ON_AMD = {"bfloat16": {"avx512_bf16"}, "float16": set[str]()}


def scoring_dtype(asked: str, dtype: str, device: str) -> str:
    """``asked``, or for ``auto`` the recipes' ``dtype`` where ``device`` computes fast in it, else float32."""
    if asked != "auto":
        return asked
    if device != "cpu" or dtype not in _FAST:
        return dtype
    vendor, instructions = _processor()
    fast = _FAST[dtype] | (_FAST_ON_AMD[dtype] if vendor == "AuthenticAMD" else set())
    return "float32" if fast.isdisjoint(instructions) else dtype


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
