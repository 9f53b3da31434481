"""Reading models lazily: shapes from headers at once, tensors from memory-mapped files on demand."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import tensors
from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.files import Stamp, file_digest, mapped_file, read_json
from evomerge.checkpoint.header import DTYPES, FLOATS, Entry
from evomerge.checkpoint.reference import ModelRef, locate
from evomerge.checkpoint.weights import check_named, entries, refuse_adapter
from evomerge.errors import CheckpointError, Incompatible

if TYPE_CHECKING:
    import torch


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
        refuse_adapter(folder, name)
        self.config = read_json(folder / "config.json")
        check_named(self.config, folder)
        self.architecture = tensors.check_architecture(self.config, name)
        self.tied = bool(self.config.get("tie_word_embeddings", self._tied_by_default))
        self._entries = {
            key: entry
            for key, entry in entries(folder).items()
            if not tensors.ignored(key, tied=self.tied)
        }
        for key, entry in self._entries.items():
            if entry.dtype not in FLOATS:
                raise CheckpointError(
                    f"{name}: {key} is stored as {entry.dtype} ({entry.file}); quantized weights cannot be "
                    f"merged. Use the model in one of {', '.join(DTYPES)}"
                )
        self._stamps = {file: Stamp.of(file) for file in self.files}
        try:
            self.names = tensors.ordered(self._entries)
        except Incompatible as error:
            raise Incompatible(f"{name}: {error}") from None
        for key in self.names:
            entry = self._entries[key]
            if tensors.place_of(key).role in ("embed", "head") and len(entry.shape) != 2:
                raise CheckpointError(
                    f"{entry.file}: {key}: expected a row for each token, found the shape {entry.shape}"
                )
        self._files: dict[Path, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        if adapter:
            shapes = {key: self._entries[key].shape for key in self.names}
            adapter.check(name, shapes, self.embedding if self.tied else None)

    @property
    def _tied_by_default(self) -> bool:
        # config.json leaves out what its architecture's defaults say; Gemma ties, the others do not
        return tensors.ARCHITECTURES[self.architecture] == "Gemma"

    @classmethod
    def open(cls, ref: ModelRef) -> Checkpoint:
        """Read headers and config of the model that ``ref`` names."""
        folder = locate(ref.model, ref.origin)
        adapter = Adapter(locate(ref.adapter, ref.origin)) if ref.adapter else None
        return cls(str(ref), folder, adapter)

    @property
    def files(self) -> list[Path]:
        """Those that tensors are read from, the adapter's last."""
        files = sorted({entry.file for entry in self._entries.values()})
        return [*files, self.adapter.file] if self.adapter else files

    def check_unchanged(self) -> None:
        """Refuse to go on with files that are not those that were opened.

        To be asked before tensors are read: a mapped file that was cut meanwhile ends the process.

        Raises:
            CheckpointError: a file was overwritten, cut or removed.
        """
        for file in self._stamps:
            self._check_file(file)

    def _check_file(self, file: Path) -> None:
        opened = self._stamps[file]
        try:
            found = Stamp.of(file)
        except OSError as error:
            raise CheckpointError(
                f"{self.name}: {file} is gone since it was opened: {error.strerror}"
            ) from None
        if found != opened:
            how = "written anew"
            if found.size != opened.size:
                how = f"of {opened.size:,} bytes and is of {found.size:,}"
            raise CheckpointError(
                f"{self.name}: {file} was {how} since it was opened; bring back the file that it was, or start anew "
                "with this one"
            )

    @cached_property
    def layers(self) -> int:
        """Number of transformer blocks, which are numbered without a gap."""
        found = {p.layer for n in self.names if (p := tensors.place_of(n)).layer is not None}
        if gaps := [layer for layer in range(len(found)) if layer not in found]:
            raise CheckpointError(
                f"{self.name}: its weights hold block {max(found)}, but no block {gaps[0]}; copy or download the "
                "model again"
            )
        return len(found)

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
            self._check_file(file)
            self._files[file] = mapped_file(file)
        try:
            tensor: torch.Tensor = self._files[file].get_tensor(name)
        except Exception as error:  # safetensors raises its own kind for a header that lies
            raise CheckpointError(f"{file}: {name} cannot be read: {error}") from None
        return tensor

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the content of every weight file (and the adapter's files), in name order."""
        files = self.files
        if self.adapter:
            files.append(self.adapter.folder / "adapter_config.json")
        digest = hashlib.sha256()
        for file in files:
            digest.update(file_digest(file).encode())
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Refuse a parent that holds NaN or infinity: every merge with it would, too."""
        self.check_unchanged()
        for name in self.names:
            tensor = self.tensor(name)
            if not tensor.isfinite().all():
                bad = int((~tensor.isfinite()).sum())
                raise CheckpointError(
                    f"{self.name}: {name} holds {bad} NaN or infinite value(s) (file "
                    f"{self._entries[name].file}); a merge with it would be NaN, too. Use an intact copy"
                )
