"""Reading models lazily: shapes from headers at once, tensors from memory-mapped files on demand."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import tensors
from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.files import (
    DTYPES,
    FLOATS,
    TOKENIZER,
    Entry,
    entries,
    file_digest,
    mapped_file,
    read_json,
)
from evomerge.checkpoint.reference import ModelRef, locate
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch


HEAD = "lm_head.weight"


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
            for key, entry in entries(folder).items()
            if not tensors.ignored(key, tied=self.tied)
        }
        for key, entry in self._entries.items():
            if entry.dtype not in FLOATS:
                raise CheckpointError(
                    f"{name}: {key} is stored as {entry.dtype} ({entry.file}); quantized weights cannot be "
                    f"merged. Use the model in one of {', '.join(DTYPES)}"
                )
        self.names = tensors.ordered(self._entries)
        self._files: dict[Path, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._copied: dict[
            str, str
        ] = {}  # a head that an adapter unties -> the embedding that it was
        if adapter:
            self._adapt(adapter)
            shapes = {key: self._entries[key].shape for key in self.names}
            adapter.check(name, shapes, self.embedding if self.tied else None)

    def _adapt(self, adapter: Adapter) -> None:
        """Take over how many tokens an adapter was trained with, and that it trained a tied head apart."""
        if self.tied and adapter.unties(self.embedding, HEAD):
            self.tied = False
            self._entries[HEAD] = self._entries[self.embedding]
            self._copied[HEAD] = self.embedding
            self.names = tensors.ordered(self._entries)
        ends = [name for name in (self.embedding, HEAD) if name in self._entries]
        for name in ends:
            entry = self._entries[name]
            self._entries[name] = replace(entry, shape=adapter.brought(name, entry.shape))
        heights = {name: self._entries[name].shape[0] for name in ends}
        if len(set(heights.values())) > 1:
            one, other = heights.items()
            raise CheckpointError(
                f"{adapter.folder}: was trained with other tokens, and with it {one[0]} has {one[1]} rows and "
                f"{other[0]} {other[1]}: save both, with modules_to_save: [embed_tokens, lm_head]"
            )

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
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies: an adapter that comes with one was trained with it."""
        own = self.adapter and (self.adapter.folder / TOKENIZER).is_file()
        return self.adapter.folder if self.adapter and own else self.folder

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
            stored = self._tensors[name] = self._mapped(self._copied.get(name, name))
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
            digest.update(file_digest(file).encode())
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
