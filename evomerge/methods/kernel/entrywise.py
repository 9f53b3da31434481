"""Merges that go entry by entry, written once and run everywhere.

A kernel that asks for ``operands`` may return an ``Entrywise``: a function of the models' values at
one entry, and its arguments. The function is plain Python over ``+ - * / abs``, comparisons and
``where``, so the same lines run

* on whole tensors or tiles of any device, as torch operations (``tiled``), and
* on the CPU as one compiled, vectorised pass over memory (``compiled``).

Both do the same float32 operations in the same order, so they give the same bytes. Rules that keep
it so:

* Numbers are written with a point (``0.0``), or are floats, or tuples of floats, of the module: the
  compiler takes each as a float32. Whole numbers count and index.
* What differs by model comes as one struct per model, a ``NamedTuple`` of leaves:

      class Trimmed(NamedTuple):
          low: Number
          weight: Number

      def kept_sum(deltas: Numbers, models: Sequence[Trimmed], scale: Number) -> Number:
          total = 0.0
          for d, m in zip(deltas, models):
              total = total + where(abs(d) >= m.low, d, 0.0) * m.weight
          return total * scale

      entrywise(kept_sum, [Trimmed(cut, weight), ...], scale)

* Nothing is divided *into* a constant; conditions select values (``where``), never code.
* It is a function of a module, of that module's functions and of others written like it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evomerge.methods.kernel.leaves import Argument

# What an entry function computes with: to the compiler one float32, to torch a tile of them or a
# float. No type says so, since the lines are compiled for the one and run on the other.
Number = Any
Numbers = tuple[Any, ...]


@dataclass(frozen=True)
class Entrywise:
    """``entry(values, *arguments)`` for each entry of a tensor.

    Attributes:
        entry: gets the models' values (a tuple, deltas or tensors) and the arguments; a sequence
            arrives as a tuple, a struct as itself. Returns the merged value.
        arguments: leaves, structs of leaves, or sequences of either, one per model.
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


@dataclass(frozen=True)
class Pass:
    """What one pass over memory reads and computes.

    Attributes:
        entry: see ``Entrywise``.
        arguments: its arguments.
        tensors: the sources [rows, columns], any floating dtype.
        base: what they are taken from; None: nothing.
    """

    entry: Callable[..., Any]
    arguments: tuple[Argument, ...]
    tensors: Sequence[Tensor]
    base: Tensor | None

    @property
    def size(self) -> int:
        return self.tensors[0].numel()

    @property
    def columns(self) -> int:
        return self.tensors[0].shape[1]


def where(condition: Number, value: Number, other: Number) -> Number:
    """``value`` where ``condition`` holds, else ``other``; for use in entry functions."""
    if isinstance(condition, bool):
        return value if condition else other
    return torch.where(condition, value, other)


def put(values: Numbers, index: int, value: Number) -> Numbers:
    """``values`` with another one at ``index``; for entry functions that return several."""
    return (*values[:index], value, *values[index + 1 :])
