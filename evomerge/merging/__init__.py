"""Materialization: a recipe and its sources become a merged model, in memory or on disk."""

from evomerge.checkpoint import vocabulary
from evomerge.merging.materialize import SHARD_BYTES, merge, merge_into
from evomerge.merging.materializer import Materializer, shared_memory
from evomerge.merging.sources import Sources, check_compatible, special_tokens

__all__ = [
    "SHARD_BYTES",
    "Materializer",
    "Sources",
    "check_compatible",
    "merge",
    "merge_into",
    "shared_memory",
    "special_tokens",
    "vocabulary",
]
