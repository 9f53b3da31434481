"""Writing model folders: beside the target, renamed when whole."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import durable
from evomerge.checkpoint.header import DTYPES
from evomerge.checkpoint.weights import ADAPTER_CONFIG, INDEX, ROUTER, WEIGHTS
from evomerge.errors import InputError, RunError

if TYPE_CHECKING:
    import torch


def shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
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

    It is on disk before it takes the name. A failure, a kill or a full disk leaves an existing
    ``out`` as it was; what a killed process left lying about is cleared away by the next.

    Raises:
        InputError: ``out`` exists and ``force`` is not set or it is no model, or its parent cannot
            be written.
        RunError: the disk is full.
    """
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(out)
        _refuse_existing(out, force)
        scratch, lock = _locked_folder(out)
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written: {error.strerror}") from None
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        for file in new.iterdir():
            durable.sync(file)
        durable.sync(new)
        _refuse_existing(out, force)  # again: another process may have made it meanwhile
        if out.exists():
            os.rename(out, old)
        try:
            os.rename(new, out)
        except BaseException:
            if old.exists():
                os.rename(old, out)
            raise
        durable.sync(out.parent)
    except BaseException as error:
        if durable.full(error):
            raise RunError(
                f"{out}: the disk is full; nothing was written there. Make room and run again"
            ) from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)


def clear_leftovers(out: Path) -> None:
    """Remove what killed processes left beside ``out``; give an ``out`` caught in between back.

    A folder is locked as long as its process lives, so those of others at work are left alone.
    """
    for scratch in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        try:
            lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone by now, or a link, or no folder: none of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            between = all(_is_own_folder(scratch / name) for name in ("old", "new"))
            if between and not out.exists():
                os.rename(scratch / "old", out)
            shutil.rmtree(scratch, ignore_errors=True)
        except OSError:  # held by a living process, or no locks on this file system
            pass
        finally:
            os.close(lock)


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _locked_folder(out: Path) -> tuple[Path, int]:
    """A new folder beside ``out`` and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.partial-"))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # taken for a leftover before it was locked
            continue
        with suppress(OSError):  # a file system without locks: nobody clears it away, either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # not taken for a leftover, either
            return folder, lock
        os.close(lock)


def _refuse_existing(out: Path, force: bool) -> None:
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out}: is a link to nothing; remove it, or choose another folder")
    if out.exists() and not force:
        raise InputError(
            f"{out}: exists already; choose another folder, or replace it with --force"
        )
    if out.exists() and not any(
        (out / name).is_file() for name in ("config.json", ADAPTER_CONFIG, ROUTER)
    ):
        raise InputError(f"{out}: holds no model, so it is not replaced; choose another folder")


class WeightFiles:
    """The weight files of one model, made at full size and filled in any order, from any thread.

    Tensors go straight to their place in the file: none is held in memory. The header comes last,
    so that no file can be read before it is whole. One shard is called ``model.safetensors``; more
    get an index, as transformers expects. Use as a context manager.

    Args:
        folder: an existing folder.
        sizes: name -> bytes, in the order of the files.
        shard_bytes: largest file, bytes of tensors.

    Raises:
        OSError: there is no room for all of it.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int], *, shard_bytes: int) -> None:
        self._places: dict[str, _File] = {}  # of the tensors still to come
        self._files: list[_File] = []
        plan = shards(sizes, shard_bytes)
        weight_map: dict[str, str] = {}
        try:
            for number, names in enumerate(plan, 1):
                many = f"model-{number:05d}-of-{len(plan):05d}.safetensors"
                path = folder / (WEIGHTS if len(plan) == 1 else many)
                file = _File(path, {name: sizes[name] for name in names})
                self._files.append(file)
                weight_map.update(dict.fromkeys(names, path.name))
                self._places.update(dict.fromkeys(names, file))
        except BaseException:
            self._close()
            raise
        if len(plan) > 1:
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Put ``tensor`` (on the CPU, as many bytes as promised) in its place, once."""
        self._places.pop(name).write(name, tensor)

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                assert not self._places, f"never written: {sorted(self._places)[:3]}"
                for file in self._files:
                    file.write_header()
        finally:
            self._close()

    def _close(self) -> None:
        for file in self._files:
            os.close(file.descriptor)


class _File:
    """One safetensors file: 8 bytes of length, the header, the tensors."""

    ROOM = 160  # bytes of a tensor's dtype, shape and place in the header: more than they take

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        self._ends: dict[str, tuple[int, int]] = {}
        end = 0
        for name, size in sizes.items():
            self._ends[name] = (end, end := end + size)
        self._header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        # the names are known, what they hold comes with the tensors; the format pads with spaces
        room = sum(len(json.dumps(name)) + self.ROOM for name in sizes) + self.ROOM
        self._start = room + -room % 8
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _reserve(self.descriptor, self._start + end)
        except BaseException:
            os.close(self.descriptor)
            raise

    def write(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        start, end = self._ends[name]
        assert tensor.nbytes == end - start, f"{name}: {tensor.nbytes} bytes, not {end - start}"
        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        self._write(self._start + start, content)
        self._header[name] = {
            "dtype": DTYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }

    def write_header(self) -> None:
        ordered = {name: self._header[name] for name in ("__metadata__", *self._ends)}
        text = json.dumps(ordered, separators=(",", ":")).encode()
        length = self._start - 8
        assert len(text) <= length, "the header outgrew its room"
        self._write(0, struct.pack("<Q", length) + text.ljust(length))

    def _write(self, offset: int, content: Any) -> None:
        rest = memoryview(content)
        while rest:
            written = os.pwrite(self.descriptor, rest, offset)
            rest, offset = rest[written:], offset + written


def _reserve(file: int, size: int) -> None:
    """Make room for ``size`` bytes: a full disk says so now, and writing is faster afterwards."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.ftruncate(file, size)


def write_file(
    path: Path, sizes: Mapping[str, int], stream: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Write ``stream`` (the names of ``sizes``, name -> bytes, in any order) as one safetensors file."""
    file = _File(path, sizes)
    try:
        for name, tensor in stream:
            file.write(name, tensor)
        file.write_header()
    finally:
        os.close(file.descriptor)


def write_weights(
    folder: Path,
    stream: Iterable[tuple[str, torch.Tensor]],
    sizes: Mapping[str, int],
    *,
    shard_bytes: int,
    progress: Callable[[str], None] = lambda name: None,
) -> None:
    """Write ``stream`` (the names of ``sizes``, in any order) as the weight files of a model."""
    with WeightFiles(folder, sizes, shard_bytes=shard_bytes) as files:
        for name, tensor in stream:
            files.write(name, tensor)
            progress(name)
