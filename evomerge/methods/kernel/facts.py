"""Facts: what merges of the same tensors share, computed once and kept while memory lasts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

T = TypeVar("T")


class FactStore:
    """Candidate-invariant results by key, the least recently used dropped when memory runs out.

    Attributes:
        limit: bytes kept at most; 0 keeps nothing (a single merge asks once).
        used: bytes kept.
        dropped: facts dropped so far.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.used, self.dropped = limit, 0, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, from memory if it is known."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                value: T = self._kept[key][0]
                return value
        value = compute()
        size = _bytes(value)
        with self._lock:
            if size > self.limit:
                self.dropped += self.limit > 0
            elif key not in self._kept:
                self._kept[key] = (value, size)
                self.used += size
                while self.used > self.limit:
                    self.used -= self._kept.popitem(last=False)[1][1]
                    self.dropped += 1
        return value


class Facts:
    """The facts of one tensor of some models; what a kernel gets as ``facts``.

    Attributes:
        lasting: whether facts are kept for a next merge.
    """

    def __init__(
        self, store: FactStore, tensor: str, models: tuple[str, ...], has_base: bool = True
    ) -> None:
        self._store, self._tensor, self._models = store, tensor, models
        self._has_base = has_base  # a delta's norm is not the tensor's
        self.lasting = store.limit > 0

    def get(self, name: Hashable, compute: Callable[[], T], *, of: str | None = None) -> T:
        """A result that depends on the tensors alone, not on parameters.

        Args:
            name: what it is.
            compute: makes it; tensors, arrays and numbers, in tuples.
            of: the one model it depends on, besides the base; None: all of them, in order.
        """
        models = self._models if of is None else of
        return self._store.get((name, self._tensor, models, self._has_base), compute)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    return 64
