"""Checkpoints: reading models lazily, writing them shard by shard.

A model is named by text: a folder, a hub id (``org/name[@revision]``), ``embedded:NAME`` for the
tiny family that ships with evomerge, each optionally ``+ADAPTER`` (a PEFT LoRA or DoRA folder or hub
id). Only safetensors are read: a pickle can run code. Tensors stay on disk, memory-mapped, until
they are asked for; those of the hub stay there until headers and configs have been compared. A folder comes from strangers: what is wrong with a file of it is one message with file
and key, whoever reads it.
"""

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.companions import companions, copy_companions, without_local_code
from evomerge.checkpoint.donor import Donor
from evomerge.checkpoint.files import TOKENIZER, read_json
from evomerge.checkpoint.header import DTYPES, Entry, gigabytes, read_header, tensor_bytes
from evomerge.checkpoint.reading import Checkpoint
from evomerge.checkpoint.reference import EMBEDDED, ModelRef, locate
from evomerge.checkpoint.vocabulary import ABSENT, matching_rows, same_tokenizer, vocabulary
from evomerge.checkpoint.weights import INDEX, WEIGHTS, weight_files
from evomerge.checkpoint.writing import (
    WeightFiles,
    beside,
    shards,
    write_weights,
)

__all__ = [
    "ABSENT",
    "DTYPES",
    "EMBEDDED",
    "INDEX",
    "TOKENIZER",
    "WEIGHTS",
    "Adapter",
    "Checkpoint",
    "Donor",
    "Entry",
    "ModelRef",
    "WeightFiles",
    "beside",
    "companions",
    "copy_companions",
    "gigabytes",
    "locate",
    "matching_rows",
    "read_header",
    "read_json",
    "same_tokenizer",
    "shards",
    "tensor_bytes",
    "vocabulary",
    "weight_files",
    "without_local_code",
    "write_weights",
]
