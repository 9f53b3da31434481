"""The files of a model folder: JSON, tensors mapped from disk, what tells that one changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.cache import cache_folder
from evomerge.checkpoint.fields import check_fields
from evomerge.errors import CheckpointError
from evomerge.plain_files import open_plain

TOKENIZER = "tokenizer.json"
MOST_JSON = 1 << 28  # bytes; the largest tokenizers have 40 MB


class Stamp(NamedTuple):
    """What changes when a file is overwritten or replaced: its size in bytes, when it was written, in ns, its inode."""

    size: int
    written: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Of a file as it is now; OSError if it is gone."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


def parsed(text: str) -> Any:
    """What JSON ``text`` says; ValueError if it is none, or nested without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, its values of the kinds that ``fields`` states for such a file.

    Raises:
        CheckpointError: the file is absent or malformed, or a value is of another kind.
    """
    try:
        with open_plain(path) as file:
            content = file.read(MOST_JSON + 1)
        if len(content) > MOST_JSON:
            raise ValueError(f"it is larger than {MOST_JSON:,} bytes")
        value = parsed(content.decode("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    check_fields(value, path)
    return value


def mapped_file(path: Path) -> Any:
    """A handle on a safetensors file whose tensors are views of its mapping."""
    from safetensors import safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except Exception as error:  # safetensors raises its own kind
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def file_digest(path: Path) -> str:
    """sha256 of a file; for big files kept in the user's cache under path, size, time and inode."""
    stamp = Stamp.of(path)
    cached = None
    if stamp.size > 256 * 2**20:
        name = "|".join(map(str, (path.resolve(), *stamp)))
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
