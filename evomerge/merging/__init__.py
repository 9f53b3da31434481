"""Materialization: a recipe and its parents become a merged model, in memory or on disk."""

from evomerge.merging.as_adapter import merge_adapter
from evomerge.merging.disk import SHARD_BYTES
from evomerge.merging.experts import merge_experts
from evomerge.merging.materializer import Materializer, Merge, shared_memory
from evomerge.merging.models import open_model, open_parents, outline_model, outline_parents
from evomerge.merging.recipes import merge, merge_into

__all__ = [
    "SHARD_BYTES",
    "Materializer",
    "Merge",
    "merge",
    "merge_adapter",
    "merge_experts",
    "merge_into",
    "open_model",
    "open_parents",
    "outline_model",
    "outline_parents",
    "shared_memory",
]
