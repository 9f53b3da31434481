"""Merges that go entry by entry, written once and run everywhere.

A kernel that asks for ``operands`` may return an ``Entrywise``: a function of the models' values at
one entry, and its arguments. The function is plain Python over ``+ - * / abs``, comparisons and
``where``, so the same lines run

* on whole tensors or tiles of any device, as torch operations (``_tiled``), and
* on the CPU as one compiled, vectorised pass over memory (``_compiled``).

Both do the same float32 operations in the same order, so they give the same bytes. Rules that keep
it so: constants come in as arguments (a literal would be float64 to the compiler), nothing is
divided *into* a constant, and conditions select values (``where``), never code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
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
    """Uniforms in [0, 1) drawn entry by entry from a 64-bit key (see ``_draw``)."""

    key: int


@dataclass(frozen=True)
class Cut:
    """A threshold that keeps an exact number of entries of a tensor.

    Entries above ``value`` pass, and of those equal to it the ones up to flat index ``last``: the
    function sees ``value`` there and the next larger float32 behind, and tests ``>=``.
    """

    value: float
    last: int


Leaf = float | Columns | Rows | Entries | Uniforms | Cut
Argument = Leaf | Sequence[Leaf]


@dataclass(frozen=True)
class Entrywise:
    """``entry(values, *arguments)`` for each entry of a tensor.

    Attributes:
        entry: gets the models' values (a tuple, deltas or tensors) and the arguments; a sequence
            arrives as a tuple. Returns the merged value.
        arguments: floats and the kinds above, or one sequence of them per model.
        of: whether values are sources minus base, the base then being added, or the sources.
    """

    entry: Callable[..., Any]
    arguments: tuple[Argument, ...]
    of: Literal["deltas", "tensors"]


def entrywise(
    entry: Callable[..., Any],
    *arguments: Argument,
    of: Literal["deltas", "tensors"] = "deltas",
) -> Entrywise:
    """The merge of ``entry`` over every entry; see ``Entrywise``."""
    return Entrywise(entry, arguments, of)


def where(condition: Any, value: Any, other: Any) -> Any:
    """``value`` where ``condition`` holds, else ``other``; for use in entry functions."""
    if isinstance(condition, bool):
        return value if condition else other
    return torch.where(condition, value, other)


def put(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    """``values`` with another one at ``index``; for entry functions that return several."""
    return (*values[:index], value, *values[index + 1 :])


def leaves(arguments: Sequence[Argument]) -> list[Leaf]:
    """The arguments with sequences laid out flat."""
    flat: list[Leaf] = []
    for argument in arguments:
        flat.extend(argument if isinstance(argument, (tuple, list)) else [cast(Leaf, argument)])
    return flat


def segments(arguments: Sequence[Argument], size: int) -> list[tuple[int, int]]:
    """Runs of flat indices within which every cut is one threshold."""
    kinds = set(map(type, leaves(arguments)))
    assert not (kinds & {Columns, Rows} and kinds & {Cut, Uniforms}), "segments cut through rows"
    edges = {leaf.last + 1 for leaf in leaves(arguments) if isinstance(leaf, Cut)}
    if any(isinstance(leaf, Uniforms) for leaf in leaves(arguments)):
        edges.update(range(2**32, size, 2**32))  # draws are counted in 32 bits
    inner = sorted(edge for edge in edges if 0 < edge < size)
    return list(zip([0, *inner], [*inner, size], strict=True))


def threshold(cut: Cut, start: int) -> float:
    """What a cut is in the segment that begins at ``start``."""
    if start <= cut.last:
        return cut.value
    return float(np.nextafter(np.float32(cut.value), np.float32(np.inf)))
