"""The header of a safetensors file: which tensors it holds, and where.

Source: the format as https://github.com/huggingface/safetensors states it; what its library refuses is
refused here, before anything is mapped.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.fields import MOST, TEXT, Kind, each, field, mapping, whole
from evomerge.checkpoint.files import parsed
from evomerge.config import shown
from evomerge.errors import CheckpointError, one_of
from evomerge.plain_files import open_plain

BITS = {  # of one value
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
FLOATS = ("F64", *DTYPES.values())
MOST_HEADER = 100_000_000  # bytes; the library reads no longer one
_MOST_NAME = 1000  # characters
_POINTER = b"version https://git-lfs"

_DTYPE = Kind(one_of(BITS), lambda value: isinstance(value, str) and value in BITS)
_SHAPE = each(whole(0), "sizes")
_OFFSETS = Kind(
    "[begin, end] in bytes",
    lambda value: _SHAPE.holds(value) and len(value) == 2 and value[0] <= value[1],
)
_METADATA = mapping(TEXT, "texts")


@dataclass(frozen=True)
class Entry:
    """One stored tensor: which file, dtype code and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path, *, whole: bool = True) -> dict[str, Entry]:
    """The tensors of one safetensors file, each of which lies in it where the header says.

    Args:
        path: of the file.
        whole: False where it may end after its header, as long as the weights were not fetched.

    Raises:
        CheckpointError: the file is absent, cut, or no safetensors file; an entry of its header is of a wrong
            type or value; tensors overlap, or leave bytes between them.
    """
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(len(_POINTER))
            if start == _POINTER:
                raise CheckpointError(
                    f"{path}: is a Git LFS pointer, not the file that it points to; run `git lfs pull` there"
                )
            (length,) = struct.unpack("<Q", start[:8])
            if length > size:
                raise ValueError("its header is longer than the file")
            if length > MOST_HEADER:
                raise ValueError(f"its header is longer than {MOST_HEADER:,} bytes")
            file.seek(8)
            header = parsed(file.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, struct.error, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); copy or download it again"
        ) from None
    if header.get("__metadata__") is not None:
        field(header, "__metadata__", _METADATA, path)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, item) for name, item in header.items()}
    _check_places(path, header, 8 + length, size if whole else None)
    return entries


def promised_bytes(path: Path) -> int:
    """Bytes of the whole safetensors file of which ``path`` is the header; raises as ``read_header``."""
    entries = read_header(path, whole=False).values()
    return path.stat().st_size + sum(math.prod(e.shape) * BITS[e.dtype] for e in entries) // 8


def header_of(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    """The header of a safetensors file that holds tensors of these ``shapes`` in the torch dtype ``dtype``."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + tensor_bytes(shape, dtype)
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor of ``shape`` in the torch dtype called ``dtype``."""
    return math.prod(shape) * BITS[DTYPES[dtype]] // 8


def gigabytes(size: float) -> str:
    """``size`` bytes for a person."""
    if size < 2**20:
        return f"{size / 2**10:.0f} kB"
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def _entry(path: Path, name: str, item: Any) -> Entry:
    if len(name) > _MOST_NAME:
        raise CheckpointError(
            f"{path}: {shown(name)}: expected a name of at most {_MOST_NAME:,} characters"
        )
    within = f"{shown(name)}."
    if not isinstance(item, dict):
        raise CheckpointError(
            f"{path}: {within[:-1]}: expected dtype, shape and data_offsets, found {shown(item)}"
        )
    dtype = field(item, "dtype", _DTYPE, path, within)
    shape = field(item, "shape", _SHAPE, path, within)
    start, end = field(item, "data_offsets", _OFFSETS, path, within)
    values = math.prod(shape)
    if math.prod(size for size in shape if size) >= MOST:
        raise CheckpointError(
            f"{path}: {within}shape: expected fewer than 2**63 values, found {shown(shape)}"
        )
    if values * BITS[dtype] != 8 * (end - start):
        raise CheckpointError(
            f"{path}: {within}data_offsets: expected the {values * BITS[dtype] // 8:,} bytes of a {dtype} "
            f"tensor of shape {shown(shape)}, found {shown([start, end])}"
        )
    return Entry(path, dtype, tuple(shape))


def _check_places(path: Path, header: Mapping[str, Any], begin: int, size: int | None) -> None:
    """Refuse tensors that do not follow each other from ``begin`` to the end of the file at ``size``, in bytes.

    A ``size`` of None is not compared.
    """
    end, before = 0, ""
    places = sorted((*item["data_offsets"], name) for name, item in header.items())
    for start, stop, name in places:
        if start != end:
            follows = f"where {shown(before)} ends" if before else "where the header ends"
            raise CheckpointError(
                f"{path}: {shown(name)}.data_offsets: expected to start at {end:,}, {follows}, found "
                f"{shown([start, stop])}"
            )
        end, before = stop, name
    if size is not None and size != begin + end:
        fault = "truncated" if size < begin + end else "longer than its header says"
        raise CheckpointError(
            f"{path}: {fault}: {size:,} bytes where its header promises {begin + end:,}; "
            "copy or download it again"
        )
