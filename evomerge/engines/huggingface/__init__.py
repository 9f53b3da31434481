"""The engine that runs transformers models."""

from evomerge.engines.huggingface.engine import HuggingFaceEngine

__all__ = ["HuggingFaceEngine"]
