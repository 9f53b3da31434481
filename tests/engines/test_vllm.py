"""vLLM holds to the contract of engines, and searches find what they find with transformers.

Run where it is installed (``make vllm``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("vllm")

from evomerge.engines import EngineOptions
from evomerge.testing.engines import EngineContract

# of vLLM itself, and of what it loads of torch
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class TestVLLM(EngineContract):
    engine = "vllm"


class TestVLLMOverTwo(EngineContract):
    """A share of every tensor in each of two processes."""

    engine = "vllm"
    options = EngineOptions(devices=("cpu", "cpu"))


@pytest.mark.slow
def test_a_search_finds_what_it_finds_with_transformers(
    found_with: Callable[..., list[tuple[Any, ...]]],
) -> None:
    found = {engine: found_with(engine, 5, 20) for engine in ("huggingface", "vllm")}
    assert found["huggingface"] == found["vllm"]
