"""Ternary tensors: of each entry only whether it is kept, and its sign; about one bit an entry, in a file of our own.

    index    uint8    zlib of JSON: [key, shape, kept entries, k, bytes of quotients], a tensor each
    scales   float32  the magnitude of a tensor's kept entries
    packed   uint8    by tensor, each stream from a whole byte on: quotients, remainders, signs

The gaps before kept entries, in flat order, are Golomb-Rice coded with parameter k: floor(gap / 2^k) zeros and a
one in the stream of quotients, the k low bits of the gap in that of remainders, lowest first. So both are read in
one pass, without a loop over entries. At k = 0 the quotients are a plain bit mask.

Source: Yadav et al. 2023, ComPEFT, https://arxiv.org/abs/2311.13171, section 2.2; Rice 1979, a special case of
Golomb 1966.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evomerge.checkpoint.fields import TEXT, each, whole
from evomerge.checkpoint.files import mapped_file, parsed
from evomerge.checkpoint.header import MOST_HEADER, Entry, read_header
from evomerge.config import shown
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_FORM = "[key, shape, kept, k, bytes of quotients]"
_KINDS = (TEXT, each(whole(1), "sizes"), whole(0), whole(0, 40), whole(0))

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Kept:
    """A ternary tensor.

    Attributes:
        shape: of the tensor.
        places: flat indices of the kept entries, ascending.
        positive: whether each of them is above 0.
        scale: their magnitude.
    """

    shape: tuple[int, ...]
    places: NDArray[np.int64]
    positive: NDArray[np.bool_]
    scale: float

    @property
    def tensor(self) -> torch.Tensor:
        """All entries, float32."""
        import torch

        flat = torch.zeros(math.prod(self.shape))
        signs = np.where(self.positive, self.scale, -self.scale).astype(np.float32)
        flat[torch.from_numpy(self.places)] = torch.from_numpy(signs)
        return flat.reshape(self.shape)


def largest(tensor: torch.Tensor, density: float) -> Kept:
    """The ``max(1, int(density n))`` of n entries of largest magnitude, the first of equal ones; scale 1.

    Zeros are not kept.
    """
    flat = tensor.float().reshape(-1)
    count = max(1, int(density * len(flat)))
    order = flat.abs().argsort(descending=True, stable=True)[:count].sort().values
    order = order[flat[order] != 0]
    return Kept(tuple(tensor.shape), order.numpy(), (flat[order] > 0).numpy(), 1.0)


def write_ternary(path: Path, tensors: Mapping[str, Kept]) -> None:
    """Write ternary tensors, by their keys, as one file; see the module's text."""
    from safetensors.numpy import save_file

    index, packed = [], list[Bytes]()
    for key, kept in tensors.items():
        gaps = np.diff(kept.places, prepend=-1) - 1
        k = _parameter(gaps)
        quotients, remainders = gaps >> k, gaps & ((1 << k) - 1)
        unary = np.zeros(int(quotients.sum()) + len(gaps), np.uint8)
        unary[np.cumsum(quotients + 1) - 1] = 1
        bits = (remainders[:, None] >> np.arange(k)) & 1
        streams = [np.packbits(each) for each in (unary, bits.astype(np.uint8), kept.positive)]
        packed += streams
        index.append([key, list(kept.shape), len(gaps), k, len(streams[0])])
    content = {
        "index": np.frombuffer(zlib.compress(json.dumps(index).encode(), 9), np.uint8),
        "scales": np.array([kept.scale for kept in tensors.values()], np.float32),
        "packed": np.concatenate(packed) if packed else np.zeros(0, np.uint8),
    }
    save_file(content, path)


def _parameter(gaps: NDArray[np.int64]) -> int:
    """The k that takes fewest bits."""
    if not len(gaps):
        return 0
    bits = [int((gaps >> k).sum()) + k * len(gaps) for k in range(int(gaps.max()).bit_length() + 1)]
    return int(np.argmin(bits))


class TernaryFile:
    """A file of ternary tensors.

    Raises:
        CheckpointError: it is damaged, with what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        entries = read_header(path)
        for name, dtype in (("index", "U8"), ("scales", "F32"), ("packed", "U8")):
            if name not in entries or entries[name].dtype != dtype or len(entries[name].shape) != 1:
                raise self._damaged(f"expected a tensor {name!r} of one axis, {dtype}")
        self._mapped = mapped_file(path)
        self._index = self._read_index()
        if entries["scales"].shape != (len(self._index),):
            raise self._damaged(f"expected a scale for each of {len(self._index)} tensors")
        end = 0
        self._starts: dict[str, tuple[int, int]] = {}  # key -> number, where its streams begin
        for number, (key, (_, kept, k, unary)) in enumerate(self._index.items()):
            self._starts[key] = number, end
            end += unary + _octets(kept * k) + _octets(kept)
        if entries["packed"].shape != (end,):
            raise self._damaged(f"expected {end:,} packed bytes by its index")

    @property
    def entries(self) -> dict[str, Entry]:
        """The tensors as if they were stored plainly."""
        return {key: Entry(self.path, "F32", shape) for key, (shape, *_) in self._index.items()}

    def tensor(self, key: str) -> torch.Tensor:
        """A tensor, float32."""
        shape, kept, k, length = self._index[key]
        number, start = self._starts[key]
        part = self._mapped.get_slice("packed")
        ends = np.cumsum([start, length, _octets(kept * k), _octets(kept)]).tolist()
        unary, low, signs = (np.unpackbits(part[a:b].numpy()) for a, b in pairwise(ends))
        ones = np.flatnonzero(unary)
        if len(ones) != kept:
            raise self._damaged(f"expected {kept:,} entries of {shown(key)}, found {len(ones):,}")
        bits = low[: kept * k].reshape(kept, k).astype(np.int64)
        remainders = (bits << np.arange(k)).sum(1)
        gaps = ((np.diff(ones, prepend=-1) - 1) << k) + remainders
        places = np.cumsum(gaps + 1) - 1
        if kept and not 0 <= int(places.min()) <= int(places.max()) < math.prod(shape):
            raise self._damaged(f"entries of {shown(key)} lie outside of {list(shape)}")
        scale = float(self._mapped.get_slice("scales")[number : number + 1][0])
        return Kept(shape, places, signs[:kept].astype(np.bool_), scale).tensor

    def _read_index(self) -> dict[str, tuple[tuple[int, ...], int, int, int]]:
        raw = bytes(self._mapped.get_tensor("index").numpy())
        inflate = zlib.decompressobj()
        try:
            rows: Any = parsed(inflate.decompress(raw, MOST_HEADER).decode("utf-8"))
        except (zlib.error, ValueError) as error:
            raise self._damaged(f"index: not readable JSON: {error}") from None
        if not isinstance(rows, list):
            raise self._damaged(f"index: expected a list of {_FORM}")
        found: dict[str, tuple[tuple[int, ...], int, int, int]] = {}
        for row in rows:
            if not self._is_row(row) or row[0] in found:
                raise self._damaged(f"index: expected {_FORM}, each key once, found {shown(row)}")
            found[row[0]] = tuple(row[1]), *row[2:]
        return found

    @staticmethod
    def _is_row(row: Any) -> bool:
        if not isinstance(row, list) or len(row) != len(_KINDS):
            return False
        if not all(kind.holds(value) for kind, value in zip(_KINDS, row, strict=True)):
            return False
        return bool(row[2] <= math.prod(row[1]) < 2**48)

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}; copy the adapter again")


def _octets(bits: int) -> int:
    return -(-bits // 8)
