"""What an engine can, asked before one is opened: weights of fewer bits, several devices for one model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
            f"{kind} needs {known[kind]}, which is not installed; `pip install {known[kind]}`, or leave "
            "quantize out"
        )


def why_one_device(engine: str, quantize: str, whole: Collection[str], architecture: str) -> str:
    """Why a model cannot be spread over several devices; empty if it can.

    Args:
        engine: that runs it.
        quantize: of its weights.
        whole: see ``Skeleton``.
        architecture: of the model.
    """
    spreads = getattr(ENGINES.get(engine), "SPREADS", "")
    if not spreads:
        return f"engine {engine!r} runs a model on one device"
    if quantize:
        return f"a model that is quantized ({quantize}) lies on one device"
    return why_not_split(whole, architecture) if spreads == "blocks" else ""


def why_not_split(whole: Collection[str], architecture: str) -> str:
    """Why a model cannot be parted between its blocks; empty if it can."""
    if whole:
        return ""
    return f"transformers does not say which modules of {architecture} must stay together"
