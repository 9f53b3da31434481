"""The files of a model folder: JSON, safetensors headers, tensors mapped from disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.cache import cache_folder
from evomerge.errors import CheckpointError

TOKENIZER = "tokenizer.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
FLOATS = ("F64", *DTYPES.values())


@dataclass(frozen=True)
class Entry:
    """One stored tensor: which file, dtype code and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file, from its header, with the file's length checked."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("its header is longer than the file")
            header = _parsed(file.read(length))
        header.pop("__metadata__", None)
        entries = {name: _entry(path, name, item) for name, item in header.items()}
        end = 8 + length + max((item["data_offsets"][1] for item in header.values()), default=0)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, struct.error, ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); copy or download it again"
        ) from None
    if size < end:
        raise CheckpointError(
            f"{path}: truncated: {size:,} bytes where its header promises {end:,}; "
            "copy or download it again"
        )
    return entries


def _entry(path: Path, name: str, item: Any) -> Entry:
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    whole = all(type(size) is int and 0 <= size < 2**63 for size in (*shape, *offsets))
    if not whole or not isinstance(dtype, str) or len(offsets) != 2:
        raise ValueError(f"{name!r} is not described as a tensor is")
    return Entry(path, dtype, tuple(shape))


def _parsed(text: str | bytes) -> Any:
    """What JSON ``text`` says; ValueError if it is none, or nested without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def entries(folder: Path) -> dict[str, Entry]:
    index = folder / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index}: has no weight_map")
        for name, file in weight_map.items():
            if not isinstance(file, str) or not file or Path(file).name != file:
                raise CheckpointError(
                    f"{index}: weight_map: {name!r}: expected the name of a file in this folder, found {file!r:.100}"
                )
        files = sorted(set(weight_map.values()))
        absent = [name for name in files if not os.path.isfile(folder / name)]
        if absent:
            raise CheckpointError(
                f"{index}: names {len(absent)} absent shard(s): {', '.join(absent)}; "
                "copy or download the model again"
            )
        headers = {name: read_header(folder / name) for name in files}
        lost = [name for name, file in weight_map.items() if name not in headers[file]]
        if lost:
            raise CheckpointError(f"{index}: {lost[0]!r} is not in {weight_map[lost[0]]}")
        return {name: headers[file][name] for name, file in weight_map.items()}
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(
        p.name for p in folder.glob("*.pt*")
    )
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickle weights ({pickles[0]}), which can run code when loaded. Convert "
            'them once, in a place you trust: python -c "from transformers import AutoModelForCausalLM '
            f"as M; M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
        )
    raise CheckpointError(f"{folder}: no {WEIGHTS} and no {INDEX} in it")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``; CheckpointError if it is absent or malformed."""
    try:
        value = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def mapped_file(path: Path) -> Any:
    """A handle on a safetensors file whose tensors are views of its mapping."""
    from safetensors import safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except Exception as error:  # safetensors raises its own kind
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def file_digest(path: Path) -> str:
    """sha256 of a file; for big files kept in the user's cache under path, size and time."""
    stat = path.stat()
    cached = None
    if stat.st_size > 256 * 2**20:
        name = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        cached = cache_folder("sha256") / hashlib.sha256(name.encode()).hexdigest()
        if cached.is_file():
            return cached.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if cached:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.write_text(digest)
        except OSError:
            pass  # a cache that cannot be written only costs time
    return digest


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor of ``shape`` in the torch dtype called ``dtype``."""
    return math.prod(shape) * _BYTES[DTYPES[dtype]]
