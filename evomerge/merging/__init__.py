"""Materialization: a recipe and its parents become a merged model, in memory or on disk."""

from evomerge.merging.disk import SHARD_BYTES, merge, merge_into
from evomerge.merging.materializer import Materializer, Merge, shared_memory

__all__ = ["SHARD_BYTES", "Materializer", "Merge", "merge", "merge_into", "shared_memory"]
