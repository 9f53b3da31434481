"""Reading models lazily: shapes from headers at once, tensors from memory-mapped files on demand."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import tensors
from evomerge.checkpoint.reference import ModelRef, locate
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from evomerge.checkpoint.adapter import Adapter

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
_FLOATS = ("F64", *DTYPES.values())


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
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = {
            name: Entry(path, item["dtype"], tuple(item["shape"])) for name, item in header.items()
        }
        end = 8 + length + max((item["data_offsets"][1] for item in header.values()), default=0)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); copy or download it again"
        ) from None
    if size < end:
        raise CheckpointError(
            f"{path}: truncated: {size:,} bytes where its header promises {end:,}; "
            "copy or download it again"
        )
    return entries


def _entries(folder: Path) -> dict[str, Entry]:
    index = folder / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index}: has no weight_map")
        files = sorted(set(weight_map.values()))
        absent = [name for name in files if not (folder / name).is_file()]
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
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


class Checkpoint:
    """An opened model: shapes at once, tensors on demand.

    Attributes:
        name: as the user wrote it.
        folder: where it lies.
        config: its ``config.json``.
        names: parameter names in depth order (a tied head is not a parameter of its own).
        tied: whether the output head is the embedding.
    """

    def __init__(self, name: str, folder: Path, adapter: Adapter | None = None) -> None:
        self.name, self.folder, self.adapter = name, folder, adapter
        self.config = read_json(folder / "config.json")
        self.architecture = tensors.check_architecture(self.config, name)
        self.tied = bool(self.config.get("tie_word_embeddings", self._tied_by_default))
        self._entries = {
            key: entry
            for key, entry in _entries(folder).items()
            if not tensors.ignored(key, tied=self.tied)
        }
        for key, entry in self._entries.items():
            if entry.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{name}: {key} is stored as {entry.dtype} ({entry.file}); quantized weights cannot be "
                    f"merged. Use the model in one of {', '.join(DTYPES)}"
                )
        self.names = tensors.ordered(self._entries)
        self._files: dict[Path, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        if adapter:
            adapter.check(self)

    @property
    def _tied_by_default(self) -> bool:
        # config.json leaves out what its architecture's defaults say; Gemma ties, the others do not
        return tensors.ARCHITECTURES[self.architecture] == "Gemma"

    @classmethod
    def open(cls, ref: ModelRef) -> Checkpoint:
        """Read headers and config of the model that ``ref`` names."""
        folder = locate(ref.model, ref.origin)
        from evomerge.checkpoint.adapter import Adapter

        adapter = Adapter(locate(ref.adapter, ref.origin)) if ref.adapter else None
        return cls(str(ref), folder, adapter)

    @cached_property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return 1 + max(
            (p.layer for n in self.names if (p := tensors.place_of(n)).layer is not None),
            default=-1,
        )

    def entry(self, name: str) -> Entry:
        return self._entries[name]

    @property
    def dtype(self) -> str:
        """The dtype most parameters are stored in, as torch names it."""
        sizes: dict[str, int] = {}
        for entry in self._entries.values():
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + math.prod(entry.shape)
        code = max(sizes, key=lambda c: sizes[c])
        return next((name for name, known in DTYPES.items() if known == code), "float32")

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(entry.shape) for entry in self._entries.values())

    @cached_property
    def embedding(self) -> str:
        """Name of the embedding."""
        if (
            not self.names or tensors.place_of(self.names[0]).role != "embed"
        ):  # first in depth order
            raise CheckpointError(f"{self.name}: its weights hold no embedding")
        return self.names[0]

    @property
    def height(self) -> int:
        """Rows of the embedding: tokens and padding."""
        return self.entry(self.embedding).shape[0]

    def mapped(self, name: str) -> bool:
        """True if ``tensor(name)`` is a view of a mapped file, False if each call computes it."""
        return self.adapter is None or not self.adapter.touches(name)

    def tensor(self, name: str) -> torch.Tensor:
        """The parameter ``name``: mapped from disk, in its stored dtype, adapter applied (float32).

        A mapped tensor is the same object at every call; do not write into it.
        """
        stored = self._tensors.get(name)
        if stored is None:
            stored = self._tensors[name] = self._mapped(name)
        return self.adapter.applied(name, stored) if self.adapter else stored

    def _mapped(self, name: str) -> torch.Tensor:
        file = self._entries[name].file
        if file not in self._files:
            self._files[file] = mapped_file(file)
        try:
            tensor: torch.Tensor = self._files[file].get_tensor(name)
        except Exception as error:  # safetensors raises its own kind for a header that lies
            raise CheckpointError(f"{file}: {name} cannot be read: {error}") from None
        return tensor

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the content of every weight file (and the adapter's files), in name order."""
        files = sorted({entry.file for entry in self._entries.values()})
        if self.adapter:
            files += [self.adapter.file, self.adapter.folder / "adapter_config.json"]
        digest = hashlib.sha256()
        for file in files:
            digest.update(_file_digest(file).encode())
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Refuse a parent that holds NaN or infinity: every merge with it would, too."""
        for name in self.names:
            tensor = self.tensor(name)
            if not tensor.isfinite().all():
                bad = int((~tensor.isfinite()).sum())
                raise CheckpointError(
                    f"{self.name}: {name} holds {bad} NaN or infinite value(s) (file "
                    f"{self._entries[name].file}); a merge with it would be NaN, too. Use an intact copy"
                )


def mapped_file(path: Path) -> Any:
    """A handle on a safetensors file whose tensors are views of its mapping."""
    from safetensors import safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except Exception as error:  # safetensors raises its own kind
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def _file_digest(path: Path) -> str:
    """sha256 of a file; for big files kept in the user's cache under path, size and time."""
    stat = path.stat()
    cached = None
    if stat.st_size > 256 * 2**20:
        name = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cached = root / "evomerge" / "sha256" / hashlib.sha256(name.encode()).hexdigest()
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
