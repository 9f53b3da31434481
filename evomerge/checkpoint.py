"""Checkpoints: reading models lazily, writing them shard by shard.

A model is named by text: a folder, a hub id (``org/name[@revision]``), ``embedded:NAME`` for the
tiny family that ships with evomerge, each optionally ``+ADAPTER`` (a plain PEFT LoRA folder or hub
id). Only safetensors are read: a pickle can run code. Tensors stay on disk, memory-mapped, until
they are asked for.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import tensors
from evomerge.errors import CheckpointError, InputError, RunError, did_you_mean

if TYPE_CHECKING:
    import torch

EMBEDDED = Path(__file__).parent / "demo" / "models"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
COMPANIONS = (  # what beside the weights makes a folder a usable model
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*(?:@[\w./-]+)?$")
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
class ModelRef:
    """A model as the user named it; relative folders start from ``origin``."""

    text: str
    origin: str = field(default=".", compare=False)

    @property
    def model(self) -> str:
        return self.text.split("+", 1)[0]

    @property
    def adapter(self) -> str | None:
        return self.text.split("+", 1)[1] if "+" in self.text else None

    @property
    def portable(self) -> str:
        """The same name with folders made absolute, so that it means the same anywhere."""
        parts = [
            part
            if (path := _local(part, self.origin)) is None or part.startswith("embedded:")
            else str(path)
            for part in self.text.split("+", 1)
        ]
        return "+".join(parts)

    def __str__(self) -> str:
        return self.text


def _local(text: str, origin: str) -> Path | None:
    """The folder ``text`` means on this machine, or None if it reads as a hub id."""
    if text.startswith("embedded:"):
        return EMBEDDED / text.removeprefix("embedded:")
    path = (Path(origin) / Path(text).expanduser()).absolute()
    path = Path(os.path.normpath(path))
    return path if path.exists() or not _HUB_ID.match(text) else None


def locate(text: str, origin: str = ".") -> Path:
    """The local folder of a model or adapter; a hub id is downloaded into the hub's cache.

    Raises:
        CheckpointError: no such folder, or the hub does not answer.
    """
    path = _local(text, origin)
    if path is None:
        return _download(text)
    if not path.is_dir():
        if text.startswith("embedded:"):
            known = sorted(p.name for p in EMBEDDED.iterdir()) if EMBEDDED.is_dir() else []
            name = text.removeprefix("embedded:")
            raise CheckpointError(
                f"{text}: no such embedded model{did_you_mean(name, known)}; there are: {', '.join(known)}"
            )
        raise CheckpointError(
            f"{text}: no such folder ({path}); expected a Hugging Face model folder, a hub id "
            "(org/name[@revision]) or MODEL+ADAPTER"
        )
    return path


def _download(text: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = text.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt"],
            )
        )
    except Exception as error:  # the hub client raises many kinds; all mean "not to be had"
        reason = (
            str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        )
        raise CheckpointError(
            f"{text}: no folder of that name here, and the hub did not give it: {reason}. Check the "
            "name and the connection (a private or gated model needs `hf auth login`)"
        ) from None


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
    """

    def __init__(self, name: str, folder: Path, adapter: Adapter | None = None) -> None:
        self.name, self.folder, self.adapter = name, folder, adapter
        self.config = read_json(folder / "config.json")
        self.architecture = tensors.check_architecture(self.config, name)
        tied = bool(self.config.get("tie_word_embeddings", self._tied_by_default))
        self._entries = {
            key: entry
            for key, entry in _entries(folder).items()
            if not tensors.ignored(key, tied=tied)
        }
        for key, entry in self._entries.items():
            if entry.dtype not in _FLOATS:
                raise CheckpointError(
                    f"{name}: {key} is stored as {entry.dtype} ({entry.file}); quantized weights cannot be "
                    f"merged. Use the model in one of {', '.join(DTYPES)}"
                )
        self.names = tensors.ordered(self._entries)
        self._open: dict[Path, Any] = {}
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
        adapter = Adapter(locate(ref.adapter, ref.origin)) if ref.adapter else None
        return cls(str(ref), folder, adapter)

    @property
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

    def tensor(self, name: str) -> torch.Tensor:
        """The parameter ``name``: mapped from disk, in its stored dtype, adapter applied (float32)."""
        from safetensors import safe_open

        file = self._entries[name].file
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt", device="cpu")
        tensor: torch.Tensor = self._open[file].get_tensor(name)
        return self.adapter.applied(name, tensor) if self.adapter else tensor

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the content of every weight file (and the adapter's), in name order."""
        files = sorted({entry.file for entry in self._entries.values()})
        files += [self.adapter.file] if self.adapter else []
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


class Adapter:
    """A plain PEFT LoRA: W + (lora_alpha / r) B A for each tensor it touches.

    Richer kinds (DoRA, rank patterns, trained biases or embeddings) are refused with the reason.
    Source: LoRA, https://arxiv.org/abs/2106.09685, equation 3; rsLoRA divides by sqrt(r).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = read_json(folder / "adapter_config.json")
        self.file = folder / "adapter_model.safetensors"
        if not self.file.is_file():
            raise CheckpointError(f"{folder}: no adapter_model.safetensors in it")
        for key, plain in (
            ("peft_type", ("LORA",)),
            ("use_dora", (False, None)),
            ("bias", ("none", None)),
            ("modules_to_save", (None, [])),
            ("rank_pattern", (None, {})),
            ("alpha_pattern", (None, {})),
            # the others (PiSSA, OLoRA, ...) change the base's own weights
            ("init_lora_weights", (True, False, None, "gaussian", "eva", "orthogonal")),
        ):
            if config.get(key) not in plain:
                raise CheckpointError(
                    f"{folder}: adapter_config.json has {key}: {config.get(key)!r}; only plain LoRA is "
                    "expanded here. Merge it into its base with peft (merge_and_unload) and name that folder"
                )
        if missing := [key for key in ("r", "lora_alpha") if not config.get(key)]:
            raise CheckpointError(f"{folder}: adapter_config.json has no {missing[0]}")
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        self.scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        self.transposed = bool(config.get("fan_in_fan_out"))
        self._entries = read_header(self.file)
        self._pairs: dict[str, dict[str, str]] = {}
        for key in self._entries:
            match = re.match(r"^base_model\.model\.(.+)\.lora_(A|B)(?:\.default)?\.weight$", key)
            if not match:
                raise CheckpointError(f"{self.file}: {key!r} is not a plain LoRA matrix")
            self._pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = key

    def check(self, model: Checkpoint) -> None:
        """Refuse an adapter that was trained for another model."""
        for name, pair in self._pairs.items():
            if set(pair) != {"A", "B"}:
                raise CheckpointError(f"{self.file}: only one of the two LoRA matrices of {name!r}")
            if name not in model.names:
                raise CheckpointError(
                    f"{self.folder}: adapts {name!r}, which {model.name} does not have"
                )
            out, inner = self._entries[pair["B"]].shape[0], self._entries[pair["A"]].shape[1]
            shape = (inner, out) if self.transposed else (out, inner)
            if model.entry(name).shape != shape:
                raise CheckpointError(
                    f"{self.folder}: adapts {name!r} as {shape}, but in {model.name} it is "
                    f"{model.entry(name).shape}; the adapter belongs to another model"
                )

    def applied(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` with the adapter's update, float32; untouched tensors come back as they are."""
        if name not in self._pairs:
            return tensor
        from safetensors import safe_open

        with safe_open(self.file, framework="pt", device="cpu") as file:
            a, b = (file.get_tensor(self._pairs[name][key]).float() for key in ("A", "B"))
        update: torch.Tensor = (b @ a) * self.scale
        return tensor.float() + (update.T if self.transposed else update)


def shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Cut names (in order) into runs of at most ``limit`` bytes, at least one name each."""
    cut: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if cut[-1] and used + size > limit:
            cut.append([])
            used = 0
        cut[-1].append(name)
        used += size
    return cut


@contextmanager
def beside(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A fresh folder next to ``out`` that takes its name once the block succeeds.

    A failure, a kill or a full disk leaves an existing ``out`` as it was.

    Raises:
        InputError: ``out`` exists and ``force`` is not set or it is no model, or its parent cannot
            be written.
        RunError: the disk is full.
    """
    out = out.absolute()
    if out.exists() and not force:
        raise InputError(
            f"{out}: exists already; choose another folder, or replace it with --force"
        )
    if out.exists() and not (out / "config.json").is_file():
        raise InputError(f"{out}: holds no model, so it is not replaced; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written: {error.strerror}") from None
    try:
        os.chmod(work, 0o755)
        yield work
        if out.exists():
            old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old-"))
            os.rename(out, old / out.name)
            try:
                os.rename(work, out)
            except BaseException:
                os.rename(old / out.name, out)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            os.rename(work, out)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if disk_full(error):
            raise RunError(
                f"{out}: the disk is full; nothing was written there. Make room and run again"
            ) from None
        raise


def disk_full(error: BaseException) -> bool:
    """True for "no space left", also as safetensors words it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(
        text in str(error)
        for text in ("No space left", "os error 28", "File too large", "os error 27")
    )


def write_weights(
    folder: Path,
    stream: Iterable[tuple[str, torch.Tensor]],
    sizes: dict[str, int],
    *,
    shard_bytes: int,
    progress: Callable[[str], None] = lambda name: None,
) -> None:
    """Write ``stream`` (names in the order of ``sizes``, bytes each) as sharded safetensors.

    Only one shard is in memory at a time. One shard is called ``model.safetensors``; more get an
    index, as transformers expects.
    """
    from safetensors.torch import save_file

    plan = shards(sizes, shard_bytes)
    weight_map: dict[str, str] = {}
    tensors_in = iter(stream)
    for number, names in enumerate(plan, 1):
        file = WEIGHTS if len(plan) == 1 else f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        shard: dict[str, torch.Tensor] = {}
        for expected in names:
            name, tensor = next(tensors_in)
            assert name == expected, f"stream gave {name}, the plan says {expected}"
            shard[name] = tensor
            weight_map[name] = file
            progress(name)
        save_file(shard, folder / file, metadata={"format": "pt"})
        os.chmod(folder / file, 0o644)
    if len(plan) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor of ``shape`` in the torch dtype called ``dtype``."""
    return math.prod(shape) * _BYTES[DTYPES[dtype]]
