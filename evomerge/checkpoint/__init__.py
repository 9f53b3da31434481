"""Checkpoints: reading models lazily, writing them shard by shard.

A model is named by text: a folder, a hub id (``org/name[@revision]``), ``embedded:NAME`` for the
tiny family that ships with evomerge, each optionally ``+ADAPTER`` (a plain PEFT LoRA folder or hub
id). Only safetensors are read: a pickle can run code. Tensors stay on disk, memory-mapped, until
they are asked for.
"""

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.reading import (
    DTYPES,
    INDEX,
    WEIGHTS,
    Checkpoint,
    Entry,
    read_header,
    read_json,
    tensor_bytes,
)
from evomerge.checkpoint.reference import EMBEDDED, ModelRef, locate
from evomerge.checkpoint.writing import COMPANIONS, beside, disk_full, shards, write_weights

__all__ = [
    "COMPANIONS",
    "DTYPES",
    "EMBEDDED",
    "INDEX",
    "WEIGHTS",
    "Adapter",
    "Checkpoint",
    "Entry",
    "ModelRef",
    "beside",
    "disk_full",
    "locate",
    "read_header",
    "read_json",
    "shards",
    "tensor_bytes",
    "write_weights",
]
