"""vLLM holds to the contract of engines: run where it is installed (``make vllm``)."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm")

from evomerge.testing.engines import EngineContract


class TestVLLM(EngineContract):
    engine = "vllm"
