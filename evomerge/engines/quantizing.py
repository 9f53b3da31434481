"""Whether an engine can score with weights of fewer bits than they are merged in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from evomerge.errors import InputError, did_you_mean, one_of
from evomerge.registry import ENGINES


def check_quantize(engine: str, kind: str) -> None:
    """Refuse a ``kind`` that the engine does not know, or for which a library lacks; empty is none.

    Raises:
        InputError: it is refused.
    """
    known: Mapping[str, str] = getattr(ENGINES.get(engine), "QUANTIZES", {})
    if not kind:
        return
    if kind not in known:
        what = f"expected {one_of(known)}" if known else "leave quantize out"
        raise InputError(
            f"engine {engine!r} has no quantize: {kind}{did_you_mean(kind, known)}; {what}"
        )
    if find_spec(known[kind]) is None:
        raise InputError(
            f"quantize: {kind}: needs {known[kind]}, which is not installed; `pip install {known[kind]}`, or leave "
            "quantize out"
        )
