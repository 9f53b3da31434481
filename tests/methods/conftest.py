from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from evomerge.methods import _registry, names


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def registry() -> Iterator[None]:
    """Methods that a test declares or loads are forgotten after it."""
    names()
    before = dict(_registry._methods)
    yield
    _registry._methods.clear()
    _registry._methods.update(before)
    _registry.load.cache_clear()
