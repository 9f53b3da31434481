"""Derivatives of merged tensors, made once for all who ask for them in turn, as far as there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOM = (
    256 * 2**20
)  # bytes: all of a small model's; of a large one's making them costs little beside a backward pass

Tangents = Callable[[str], Iterator[tuple[Any, ...]]]


def remembered(tangents: Tangents, room: int = ROOM) -> Tangents:
    """``tangents``, by the name of a tensor, that keeps what it gave, a tensor's all or none.

    Args:
        tangents: whose tuples end with a derivative.
        room: bytes to keep; what does not fit is made at each call.
    """
    known: dict[str, list[tuple[Any, ...]]] = {}
    free = room

    def of(name: str) -> Iterator[tuple[Any, ...]]:
        nonlocal free
        if name in known:
            yield from known[name]
            return
        kept, used = list[tuple[Any, ...]](), 0
        for each in tangents(name):
            tangent: torch.Tensor = each[-1]
            used += tangent.nbytes
            if used <= free:
                kept.append(each)
            else:
                kept.clear()
            yield each
        if used <= free:
            known[name] = kept
            free -= used

    return of
