"""Preflight of a model by itself: what it is, and what it never stops at."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint import ModelRef, gigabytes, tensor_bytes
from evomerge.merging.models import outline_model
from evomerge.parents import ending_notes


def check_model(folder: Path) -> list[str]:
    """What there is to know about the model in ``folder``, one fact a line.

    Raises:
        InputError: it cannot be read or merged, or has values that are not finite.
    """
    model = outline_model(ModelRef(str(folder)))
    model.check_finite()
    size = tensor_bytes((model.parameters,), model.dtype)
    return [
        f"{folder}: ok, a model",
        f"{model.architecture}, {model.layers} layers, {model.parameters:,} parameters; {gigabytes(size)} in {model.dtype}",
        *(
            f"note: {fact}"
            for fact in (ending_notes({"it": model}, "it") if model.has_head else ())
        ),
        f"as one of several to merge: evomerge new runs/mine --base BASE --source NAME={folder}",
    ]
