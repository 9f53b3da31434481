"""The response store: every answer of every evaluation, in one append-only file beside the journal.

The journal names each block by place and checksum, and only after the block is on the disk. What
lies behind the last block that it names was never finished, and is cut off.

A block:

======= ========================================================================================
head    sizes of the three parts, 4 bytes each, little-endian
layout  JSON: per scorer its name, its items (by position in the inventory), and its columns;
        equal for candidates of one generation, so that readers parse it once
columns numbers, narrowed to the smallest type that holds them exactly; NaN is no value
rest    compressed JSON, per scorer: responses, columns that are not numbers, tokens
======= ========================================================================================
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from evomerge import durable
from evomerge.errors import InputError, RunError
from evomerge.plain_files import open_own
from evomerge.squeezing import squeeze
from evomerge.suite.scorer import Responses, Results

_HEAD = struct.Struct("<III")
_NARROW = ("u1", "<i2", "<f4", "<f8")
_REMEMBERED = 64  # layouts
_KINDS: Mapping[str, type] = {"float": float, "int": int, "bool": bool}


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block lies, its CRC-32, and the line of the journal that says so (0: none yet)."""

    offset: int
    size: int
    crc: int
    line: int = 0

    @property
    def plain(self) -> tuple[int, int, int]:
        """For the journal."""
        return self.offset, self.size, self.crc


@dataclass(frozen=True)
class _Column:
    """One metric of one scorer in a block: ``start`` bytes into the columns."""

    kind: str
    dtype: np.dtype[Any] | None
    start: int


@dataclass(frozen=True)
class _Part:
    """One scorer of a block; ``span`` is ``items`` as the fastest index."""

    items: list[int]
    span: slice | NDArray[np.int64]
    columns: Mapping[str, _Column]


class Store:
    """The store of one run.

    Args:
        path: the file.
        inventory: scorer -> every item it may be asked, in a fixed order.
        blocks: the blocks that the journal names, in its order: the rows of ``matrix``.
    """

    def __init__(
        self,
        path: Path,
        inventory: Mapping[str, Sequence[str]],
        blocks: Sequence[Block],
        handle: int,
    ) -> None:
        self.path = path
        self.blocks: list[Block] = []
        self._is_cut = False
        self._inventory = inventory
        self._position = {
            scorer: {item: at for at, item in enumerate(items)}
            for scorer, items in inventory.items()
        }
        self._handle = handle
        self._newest: tuple[Block, dict[str, Responses]] | None = None
        self._layouts: dict[
            bytes, dict[str, _Part]
        ] = {}  # of the newest blocks: many have the same
        for block in blocks:
            self._data(block)
            self.blocks.append(block)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        inventory: Mapping[str, Sequence[str]],
        blocks: Sequence[Block] = (),
        *,
        writable: bool = True,
    ) -> Store:
        """Open the store at ``path``; one without blocks is made.

        What no line names is cut off before the first block is added, not before: who finds then that the
        lines make no sense has changed nothing.

        Raises:
            InputError: it cannot be opened, or a block is not what the journal says.
        """
        path = Path(path)
        flags = os.O_RDWR if writable else os.O_RDONLY
        if writable and not blocks:
            flags |= os.O_CREAT
        try:
            handle = open_own(path, flags)
        except OSError as error:
            lost = isinstance(error, FileNotFoundError)
            advice = (
                f"; the journal beside it names {len(blocks)} blocks in it: restore it from a copy"
            )
            raise InputError(
                f"{path}: cannot be opened: {error.strerror}{advice if lost else ''}"
            ) from None
        try:
            store = cls(path, inventory, blocks, handle)
        except BaseException:
            os.close(handle)
            raise
        return store

    def append(self, results: Results) -> Block:
        """Add a block; it is on the disk when this returns.

        Raises:
            RunError: the disk is full or failing, or the file is no longer at its path.
        """
        durable.check_there(self._handle, self.path)
        data = self._encode(results)
        try:
            if not self._is_cut:
                durable.cut(self._handle, max((b.offset + b.size for b in self.blocks), default=0))
                self._is_cut = True
            offset = durable.append(self._handle, data)
        except OSError as error:
            raise RunError(
                f"{self.path}: {durable.why(error)}. Whatever the journal names is intact: "
                f"{durable.remedy(error)} and resume the run"
            ) from error
        block = Block(offset, len(data), zlib.crc32(data))
        self.blocks.append(block)
        self._newest = block, dict(results)
        return block

    def read(self, block: Block) -> dict[str, Responses]:
        """The results of one block, as they were appended; nobody may change them."""
        if self._newest and self._newest[0] == block:  # what was appended is asked for at once
            return self._newest[1]
        data = self._data(block)
        layout, columns, _ = _HEAD.unpack_from(data)
        start = _HEAD.size + layout
        rest = json.loads(zlib.decompress(data[start + columns :]))
        return {
            scorer: self._unpack(scorer, part, data[start : start + columns], *rest[scorer])
            for scorer, part in self._layout(data[_HEAD.size : start]).items()
        }

    def matrix(self, scorer: str, metric: str) -> NDArray[np.float64]:
        """``[blocks, items]``: values of a metric over the scorer's inventory; NaN where there is none.

        Raises:
            InputError: the metric's values are not numbers.
        """
        found = np.full((len(self.blocks), len(self._inventory[scorer])), np.nan)
        content = np.memmap(self.path, np.uint8, "r") if self.blocks else np.empty(0, np.uint8)
        for row, block in enumerate(self.blocks):
            start = block.offset + _HEAD.size
            size, _, _ = _HEAD.unpack(os.pread(self._handle, _HEAD.size, block.offset))
            part = self._layout(os.pread(self._handle, size, start)).get(scorer)
            start += size
            column = part.columns.get(metric) if part else None
            if part is None or column is None:
                continue
            if column.dtype is None:
                raise InputError(f"{scorer}: the values of {metric!r} are not numbers")
            found[row, part.span] = np.frombuffer(
                content, column.dtype, len(part.items), start + column.start
            )
        return found

    def close(self) -> None:
        """Let go of the file; closing twice is fine."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- blocks -----------------------------------------------------------------------------------

    def _data(self, block: Block) -> bytes:
        there = block.offset + block.size <= os.fstat(self._handle).st_size
        data = os.pread(self._handle, block.size, block.offset) if there else b""
        if len(data) != block.size or zlib.crc32(data) != block.crc:
            line = block.line
            raise InputError(
                f"{self.path}: damaged: the {block.size} bytes from {block.offset} are not what line {line} of "
                f"the journal beside it says. Restore both files from a copy, or delete line {line} of the "
                f"journal and all after it: the search then resumes from line {line - 1}"
            )
        return data

    def _layout(self, key: bytes) -> dict[str, _Part]:
        if key not in self._layouts:
            if len(self._layouts) == _REMEMBERED:
                self._layouts.clear()
            self._layouts[key] = _parse(key)
        return self._layouts[key]

    @np.errstate(invalid="ignore", over="ignore")  # of numbers that are tried in narrow types
    def _encode(self, results: Results) -> bytes:
        layout: list[Any] = []
        columns = bytearray()
        rest: dict[str, Any] = {}
        for scorer, responses in results.items():
            listed, plain = [], {}
            for metric, values in responses["metrics"].items():
                kind, packed = _pack(values)
                if kind == "json":
                    plain[metric] = values
                    listed.append([metric, kind, ""])
                else:
                    listed.append([metric, kind, packed.dtype.str])
                    columns += packed.tobytes()
            position = self._position[scorer]
            layout.append([scorer, [position[item] for item in responses["items"]], listed])
            rest[scorer] = [responses["responses"], plain, responses["tokens"]]
        head, tail = _json(layout), squeeze(_json(rest))
        return _HEAD.pack(len(head), len(columns), len(tail)) + head + columns + tail

    def _unpack(
        self,
        scorer: str,
        part: _Part,
        columns: bytes,
        responses: list[Any],
        plain: dict[str, list[Any]],
        tokens: int,
    ) -> Responses:
        metrics = {
            metric: plain[metric]
            if column.dtype is None
            else _numbers(
                column.kind, np.frombuffer(columns, column.dtype, len(part.items), column.start)
            )
            for metric, column in part.columns.items()
        }
        known = self._inventory[scorer]
        items = [known[at] for at in part.items]
        return {"items": items, "responses": responses, "metrics": metrics, "tokens": tokens}


def _json(content: Any) -> bytes:
    """What ``json.dumps`` writes, in a tenth of the time where it can be.

    Raises:
        ValueError: NaN or infinity, for which the faster one writes null.
    """
    with suppress(TypeError, ValueError, OverflowError):  # numbers of numpy, half a surrogate pair
        if b"null" not in (fast := msgspec.json.encode(content)):
            return fast
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _parse(layout: bytes) -> dict[str, _Part]:
    parts, start = {}, 0
    for scorer, items, listed in json.loads(layout):
        columns = {}
        for metric, kind, name in listed:
            dtype = np.dtype(name) if name else None
            columns[metric] = _Column(kind, dtype, start)
            start += len(items) * dtype.itemsize if dtype else 0
        parts[scorer] = _Part(items, _span(items), columns)
    return parts


def _numbers(kind: str, packed: NDArray[Any]) -> list[Any]:
    of = _KINDS[kind]
    return [None if value != value else of(value) for value in packed.tolist()]


def _pack(values: Sequence[Any]) -> tuple[str, NDArray[Any]]:
    """The kind of a column, and its numbers in the smallest type that gives the same values back."""
    types = {type(value) for value in values if value is not None}
    kind = next((kind for kind, type in _KINDS.items() if types <= {type}), "json")
    if kind == "json":
        return kind, np.empty(0)
    try:
        exact = np.array([np.nan if value is None else value for value in values], np.float64)
    except OverflowError:
        return "json", np.empty(0)
    if kind == "int" and any(
        v is not None and v != int(e) for v, e in zip(values, exact, strict=True)
    ):
        return "json", np.empty(0)  # beyond 2**53
    content = exact.tobytes()
    for dtype in _NARROW:
        packed = exact.astype(dtype)
        if packed.astype(np.float64).tobytes() == content:  # minus zero and NaN included
            break
    return kind, packed


def _span(items: Sequence[int]) -> slice | NDArray[np.int64]:
    if items and list(items) == list(range(items[0], items[0] + len(items))):
        return slice(items[0], items[0] + len(items))
    return np.array(items, np.int64)
