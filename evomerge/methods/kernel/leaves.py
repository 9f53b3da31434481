"""Leaves: what the arguments of an entry function are made of, and how they change along a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """One value per column of the tensor seen as [rows, columns]; float32 [columns]."""

    values: Tensor


@dataclass(frozen=True)
class Rows:
    """One value per row; float32 [rows]."""

    values: Tensor


@dataclass(frozen=True)
class Entries:
    """One value per entry, of any dtype; [*shape]."""

    values: Tensor


@dataclass(frozen=True)
class Uniforms:
    """Uniforms in [0, 1) drawn entry by entry from a 64-bit key (see ``draws``)."""

    key: int


@dataclass(frozen=True)
class Cut:
    """A threshold that keeps an exact number of entries of a tensor.

    Entries above ``value`` pass, and of those equal to it the ones up to flat index ``last``: the
    function sees ``value`` there and the next larger float32 behind, and tests ``>=``.
    """

    value: float
    last: int


EVERYTHING, NOTHING = Cut(0.0, -1), Cut(math.inf, -1)

Leaf = float | Columns | Rows | Entries | Uniforms | Cut
Argument = Leaf | Sequence[Any]  # a leaf, a NamedTuple of leaves, or a sequence of either


def leaves(argument: Argument) -> list[Leaf]:
    """The leaves of an argument, or of a sequence of arguments, laid out flat."""
    if not isinstance(argument, (tuple, list)):
        return [argument]  # type: ignore[list-item]
    return [leaf for part in argument for leaf in leaves(part)]


def mapped(argument: Argument, change: Callable[[Any], Any]) -> Any:
    """The argument with each leaf changed; structs stay what they are, other sequences are tuples."""
    if not isinstance(argument, (tuple, list)):
        return change(argument)
    parts = [mapped(part, change) for part in argument]
    return type(argument)(*parts) if hasattr(argument, "_fields") else tuple(parts)


def by_row(arguments: Sequence[Argument]) -> bool:
    """Whether it matters to an argument where rows begin."""
    return any(isinstance(leaf, (Columns, Rows)) for leaf in leaves(arguments))


def segments(arguments: Sequence[Argument], size: int) -> list[tuple[int, int]]:
    """Runs of flat indices within which every cut is one threshold."""
    flat = leaves(arguments)
    kinds = set(map(type, flat))
    assert not (kinds & {Columns, Rows} and kinds & {Cut, Uniforms}), "segments cut through rows"
    edges = {leaf.last + 1 for leaf in flat if isinstance(leaf, Cut)}
    if Uniforms in kinds:
        edges.update(range(2**32, size, 2**32))  # draws are counted in 32 bits
    inner = sorted(edge for edge in edges if 0 < edge < size)
    return list(zip([0, *inner], [*inner, size], strict=True))


def threshold(cut: Cut, start: int) -> float:
    """What a cut is in the segment that begins at ``start``."""
    if start <= cut.last:
        return cut.value
    return float(np.nextafter(np.float32(cut.value), np.float32(np.inf)))
