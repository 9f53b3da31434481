"""One thread for the linear algebra of NumPy.

What a driver computes is small, and its machine is busy with merging and scoring: threads that wait there for each
other make an eigendecomposition of 100 genes take 40 to 200 times as long. And how many there are moves its last bits, by which
a search would go another way on a machine with other cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np  # noqa: F401  # the libraries that are loaded are those that can be told
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """As a context or a decorator; PyTorch keeps its threads."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
