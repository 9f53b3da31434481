"""Reading models lazily: shapes from headers at once, tensors from memory-mapped files on demand."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.adapter import Adapter, Kind
from evomerge.checkpoint.claims import claim
from evomerge.checkpoint.files import TOKENIZER, Stamp, file_digest, mapped_file, read_json
from evomerge.checkpoint.header import DTYPES, FLOATS, Entry
from evomerge.checkpoint.hub import Missing, fetch
from evomerge.checkpoint.reference import ModelRef, locate, outlined
from evomerge.checkpoint.weights import check_named, entries, refuse_adapter, refuse_model
from evomerge.errors import CheckpointError
from evomerge.skeleton import Skeleton, check_architecture, check_depth
from evomerge.tensors import Place

if TYPE_CHECKING:
    import torch


class Checkpoint:
    """An opened model: shapes at once, tensors on demand.

    Attributes:
        name: as the user wrote it.
        folder: where it lies.
        config: its ``config.json``.
        names: of its tensors, in depth order (a tied head is none of its own).
        places: where each of them sits.
        ties: the name of a tied tensor -> that of the one it is.
        missing: what of the hub would have to be fetched before a tensor is read; nothing of a folder. As long as
            it was not, two stored tensors that the config ties are taken for one.
        known: sha256 of files, where it is known: one of them may be written anew with what it held.

    Args:
        headers: the folder with the headers of its weights, where these are missing.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        adapter: Adapter | None = None,
        *,
        headers: Path | None = None,
        missing: Sequence[Missing] = (),
    ) -> None:
        self.name, self.folder, self.adapter = name, folder, adapter
        self.missing, weights = tuple(missing), headers or folder
        refuse_adapter(folder, name)
        self.config = read_json(folder / "config.json")
        check_named(self.config, folder, weights)
        self.architecture = check_architecture(self.config, name)
        stored = entries(weights, whole=headers is None)
        check_depth(self.config, name, len(stored))
        self.skeleton = Skeleton.of(self.config, name)
        claims = claim(name, self.config, self.skeleton, stored)
        self._parts, self._stored = claims.parts, dict(claims.stored)
        self._entries = {key: stored[own] for key, own in claims.stored.items()}
        for key, entry in self._entries.items():
            if entry.dtype not in FLOATS:
                raise CheckpointError(
                    f"{name}: {key} is stored as {entry.dtype} ({entry.file}); quantized weights cannot be "
                    f"merged. Use the model in one of {', '.join(DTYPES)}"
                )
        self.known: Mapping[Path, str] = {}
        self._stamps = {file: Stamp.of(file) for file in self.files}
        self._files: dict[Path, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self.ties = {
            key: part.tied
            for key, part in self._parts.items()
            if part.tied and (key not in self._entries or self._equal(key, part.tied))
        }
        self._list()
        if adapter:
            if unknown := adapter.names - set(self._parts):
                adapter.rename(self._on_disk(unknown))
            self._adapt(adapter)
            shapes = {key: self._entries[key].shape for key in self.names}
            adapter.check(name, shapes, self.ties)

    def _on_disk(self, names: Collection[str]) -> dict[str, str]:
        """What the files call tensors that transformers holds under these names, of those that differ."""
        from evomerge.skeleton.conversion import loaded_as
        from evomerge.skeleton.modules import meta_model

        return loaded_as(meta_model(self.config, self.name), names)

    def _equal(self, one: str, other: str) -> bool:
        """Whether two stored tensors hold the same; transformers ties only such, whatever the config says."""
        import torch

        a, b = self._entries[one], self._entries[other]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and (
            bool(self.missing) or torch.equal(self._mapped(one), self._mapped(other))
        )

    def _adapt(self, adapter: Adapter) -> None:
        """Take over how many tokens an adapter was trained with, and that it trained a tied head apart."""
        for head, embedding in dict(self.ties).items():
            if self._parts[head].by_token and adapter.unties(embedding, head):
                del self.ties[head]
                self._entries[head] = self._entries[embedding]
                self._stored[head] = self._stored[embedding]
        self._list()
        ends = [name for name in self.names if self.by_token(name)]
        for name in ends:
            entry = self._entries[name]
            self._entries[name] = replace(entry, shape=adapter.brought(name, entry.shape))
        heights = {name: self._entries[name].shape[0] for name in ends}
        if len(set(heights.values())) > 1:
            one, other, *_ = heights.items()
            raise CheckpointError(
                f"{adapter.folder}: was trained with other tokens, and with it {one[0]} has {one[1]} rows and "
                f"{other[0]} {other[1]}: save both, with modules_to_save: [embed_tokens, lm_head]"
            )

    def _list(self) -> None:
        """What there is but for tied tensors."""
        self.names = tuple(
            key for key in self._parts if key in self._entries and key not in self.ties
        )
        self.places = {key: self._parts[key].place for key in self.names}

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        return any(self._parts[key].place.role == "head" for key in self.ties)

    @property
    def has_head(self) -> bool:
        """Whether it has a head over tokens, tied or not."""
        names = (*self.names, *self.ties)
        return any(self.by_token(name) and self.place_of(name).role == "head" for name in names)

    @classmethod
    def open(cls, ref: ModelRef) -> Checkpoint:
        """Read headers and config of the model that ``ref`` names; weights of the hub are fetched if these fit."""
        found = cls.outline(ref)
        return cls.outline(ref) if fetch(found.missing) else found

    @classmethod
    def outline(cls, ref: ModelRef) -> Checkpoint:
        """The same, but of a model of the hub no weights are fetched: what lacks is ``missing``."""
        folder = locate(ref.model, ref.origin)
        refuse_adapter(folder, str(ref))
        lacking = outlined(ref.model, ref.origin)
        headers = lacking.headers if lacking else None
        missing = [lacking] if lacking else []
        adapter = None
        if ref.adapter:
            of_adapter = locate(ref.adapter, ref.origin)
            refuse_model(of_adapter)
            lacking = outlined(ref.adapter, ref.origin, adapter=True)
            missing += [lacking] if lacking else []
            adapter = Adapter(of_adapter, lacking.headers if lacking else None)
        return cls(str(ref), folder, adapter, headers=headers, missing=missing)

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies: an adapter that comes with one was trained with it."""
        own = self.adapter and (self.adapter.folder / TOKENIZER).is_file()
        return self.adapter.folder if self.adapter and own else self.folder

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
        if found != opened and file in self.known and file_digest(file) == self.known[file]:
            self._stamps[file] = found  # touched, or copied anew
        elif found != opened:
            how = "written anew"
            if found.size != opened.size:
                how = f"of {opened.size:,} bytes and is of {found.size:,}"
            raise CheckpointError(
                f"{self.name}: {file} was {how} since it was opened; bring back the file that it was, or start anew "
                "with this one"
            )

    @cached_property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return self.skeleton.layers

    def entry(self, name: str) -> Entry:
        return self._entries[name]

    def place_of(self, name: str) -> Place:
        """Where a tensor sits, also one that is tied."""
        return self._parts[name].place

    def by_token(self, name: str) -> bool:
        """True if the rows of ``name`` belong to tokens."""
        return self._parts[name].by_token

    def read_as(self, name: str) -> str:
        """The tensor that ``name`` is: another one where it is tied."""
        return self.ties.get(name, name)

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
        return sum(math.prod(self._entries[name].shape) for name in self.names)

    @cached_property
    def embedding(self) -> str:
        """Name of the embedding."""
        found = self.skeleton.embedding
        if found is None:
            raise CheckpointError(f"{self.name}: it has no embedding of tokens")
        return found

    @property
    def rows(self) -> int:
        """Rows that the embedding has by the config."""
        return self.skeleton.parts[self.embedding].shape[0]

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
        plain = self.plain(name)
        return self.adapter.applied(name, plain) if self.adapter else plain

    def plain(self, name: str) -> torch.Tensor:
        """The same without the adapter."""
        assert not self.missing, f"{self.name}: its weights were not fetched"
        stored = self._tensors.get(name)
        if stored is None:
            stored = self._tensors[name] = self._mapped(name)
        return stored

    def adapted(self, name: str) -> Kind | None:
        """How the adapter changes the parameter ``name``; None if it does not, or there is none."""
        return self.adapter.kind(name, self.plain(name)) if self.adapter else None

    def _mapped(self, name: str) -> torch.Tensor:
        file = self._entries[name].file
        if file not in self._files:
            self._check_file(file)
            self._files[file] = mapped_file(file)
        try:
            tensor: torch.Tensor = self._files[file].get_tensor(self._stored[name])
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
