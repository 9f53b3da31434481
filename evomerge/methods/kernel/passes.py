"""Passes over memory: what both kinds of them offer, and which kind a device gets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods.kernel import tiled
from evomerge.methods.kernel.entrywise import Pass


@runtime_checkable  # by the type checker of tests
class Passes(Protocol):
    """The functions of ``tiled``, where they are described, and of ``compiled``."""

    def merge(self, work: Pass, out: Tensor, *, scale: float = 1.0, add: bool = True) -> bool: ...

    def sums(self, work: Pass, units: Sequence[float]) -> list[int]: ...

    def histogram(self, tensor: Tensor, base: Tensor, bucket: int | None = None) -> Tensor: ...

    def extent(self, tensor: Tensor, base: Tensor) -> float: ...

    def drawn_masses(
        self, tensor: Tensor, base: Tensor, key: int, thresholds: NDArray[np.float32], unit: float
    ) -> NDArray[np.int64]: ...

    def nth(self, tensor: Tensor, base: Tensor, value: float, number: int) -> int: ...

    def ranks(self, tensor: Tensor, base: Tensor) -> Tensor: ...


def on(device: torch.device) -> Passes:
    """The fastest passes for tensors of a device."""
    return _of_the_cpu() if device.type == "cpu" else tiled


@functools.cache
def _of_the_cpu() -> Passes:
    """The compiled passes, or the tiled ones where Numba is missing."""
    try:
        from evomerge.methods.kernel import compiled
    except ImportError:
        return tiled
    return compiled
