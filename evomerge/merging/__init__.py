"""Materialization: a recipe and its sources become a merged model, in memory or on disk."""

from evomerge.merging.materialize import SHARD_BYTES, merge, merge_into, merged
from evomerge.merging.sources import Sources, check_compatible, special_tokens, vocabulary

__all__ = [
    "SHARD_BYTES",
    "Sources",
    "check_compatible",
    "merge",
    "merge_into",
    "merged",
    "special_tokens",
    "vocabulary",
]
