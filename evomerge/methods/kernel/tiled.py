"""Entrywise passes as torch operations: any device, no compiler, cache-sized tiles on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import c_float
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods.kernel import draws
from evomerge.methods.kernel.entrywise import Pass
from evomerge.methods.kernel.leaves import (
    Columns,
    Cut,
    Entries,
    Rows,
    Uniforms,
    by_row,
    mapped,
    segments,
    threshold,
)

CPU_TILE = 1 << 15  # entries: a dozen float32 scratch tensors stay within an L2 cache
DEVICE_TILE = 1 << 25
LARGEST = 0x7F7FFFFF  # bits of the largest float32


def merge(work: Pass, out: Tensor, *, scale: float = 1.0, add: bool = True) -> bool:
    """Write the entry function of every entry into ``out``; True if all of it is finite.

    An entry that is NaN or infinite in a source, or in the base that it is taken from, is NaN.

    Args:
        work: the function and what it reads.
        out: [rows, columns], contiguous, of any floating dtype.
        scale: factor of the result before the base is added.
        add: add the base to the result.
    """
    finite = True
    for start, stop, values, given in _tiles(work):
        base = _tile(work.base, start, stop) if work.base is not None and add else None
        tile = out.view(-1)[start:stop]
        tile.copy_(_merged(work, values, given, base, scale))
        finite = finite and bool(tile.isfinite().all())
    return finite


def entries(work: Pass, at: Tensor, *, scale: float = 1.0) -> Tensor:
    """What ``merge`` writes at the flat indices ``at`` [n], before it is cast: float32 [n]."""
    values = tuple(tensor.reshape(-1)[at].float() for tensor in work.tensors)
    base = None if work.base is None else work.base.reshape(-1)[at].float()
    if base is not None:
        values = tuple(value - base for value in values)
    change = partial(_given_at, at=at, columns=work.columns)
    given = [mapped(each, change) for each in work.arguments]
    return _merged(work, values, given, base, scale)


def _merged(
    work: Pass, values: Sequence[Tensor], given: Sequence[Any], base: Tensor | None, scale: float
) -> Tensor:
    """The entry function of some entries, scaled, added to their ``base``; NaN where a value is not finite."""
    merged = work.entry(values, *given)
    if scale != 1.0:
        merged = merged * scale
    if base is not None:
        merged = base + merged
    broken = values[0] - values[0]
    for value in values[1:]:
        broken = broken + (value - value)
    return merged + broken  # type: ignore[no-any-return]


def sums(work: Pass, units: Sequence[float]) -> list[int]:
    """Sums over all entries of each value that the entry function returns, in multiples of ``units``.

    Each value is rounded to a multiple of its unit first: sums of whole numbers do not depend on
    the order of the entries.
    """
    totals = [0] * len(units)
    for _, _, values, given in _tiles(work):
        for number, value in enumerate(work.entry(values, *given)):
            whole = (value / units[number]).round().long()
            totals[number] += int(whole.sum())
    return totals


def histogram(tensor: Tensor, base: Tensor, bucket: int | None = None) -> Tensor:
    """How many entries of |tensor - base| have each value of the upper 16 bits (of 32).

    With ``bucket``: how many of those with these upper bits have each value of the lower 16. Two
    histograms find any order statistic exactly.

    Returns:
        Counts [65536], int64, on the CPU.
    """
    counts = torch.zeros(1 << 16, dtype=torch.int64, device=tensor.device)
    tile = CPU_TILE if tensor.device.type == "cpu" else DEVICE_TILE
    for start in range(0, tensor.numel(), tile):
        stop = start + tile
        delta = _tile(tensor, start, stop) - _tile(base, start, stop)
        bits = delta.abs().view(torch.int32)
        if bucket is None:
            counts += torch.bincount(bits >> 16, minlength=1 << 16)
        else:
            inside = bits[bits >> 16 == bucket] & 0xFFFF
            counts += torch.bincount(inside, minlength=1 << 16)
    return counts.cpu()


def extent(tensor: Tensor, base: Tensor) -> float:
    """The largest |tensor - base|; of what is not finite, the largest float32."""
    largest = 0
    tile = CPU_TILE if tensor.device.type == "cpu" else DEVICE_TILE
    for start in range(0, tensor.numel(), tile):
        stop = start + tile
        delta = _tile(tensor, start, stop) - _tile(base, start, stop)
        largest = max(largest, int(delta.abs().view(torch.int32).max()))
    return float(np.array([min(largest, LARGEST)], np.uint32).view(np.float32)[0])


def drawn_masses(
    tensor: Tensor, base: Tensor, key: int, thresholds: NDArray[np.float32], unit: float
) -> NDArray[np.int64]:
    """Sums of |tensor - base|, in units, over the entries whose draw lies in each interval.

    Args:
        thresholds: ascending, from 0 to 1 [n + 1]; interval i is [thresholds[i], thresholds[i + 1]).

    Returns:
        Whole numbers [n].
    """
    found = torch.zeros(len(thresholds), dtype=torch.int64, device=tensor.device)
    edges = torch.from_numpy(thresholds).to(tensor.device)
    tile = CPU_TILE if tensor.device.type == "cpu" else DEVICE_TILE
    for start in range(0, tensor.numel(), tile):
        stop = min(start + tile, tensor.numel())
        delta = _tile(tensor, start, stop) - _tile(base, start, stop)
        whole = (delta.abs() / unit).round().long()
        drawn = draws.uniforms(key, start, stop, tensor.device)
        found.scatter_add_(0, torch.bucketize(drawn, edges, right=True) - 1, whole)
    return found[:-1].cpu().numpy()


def nth(tensor: Tensor, base: Tensor, value: float, number: int) -> int:
    """Flat index of the ``number``-th entry (from 1) with |tensor - base| equal to ``value``."""
    equal = (tensor.reshape(-1).float() - base.reshape(-1).float()).abs() == value
    return int(equal.nonzero()[number - 1])


def ranks(tensor: Tensor, base: Tensor) -> Tensor:
    """Each entry's place by |tensor - base| in its row, ties by position.

    Returns:
        Whole numbers [rows, columns], uint16 where they fit, else int32.
    """
    rows, columns = tensor.shape
    dtype = torch.uint16 if columns <= 1 << 16 else torch.int32
    found = torch.empty(rows, columns, dtype=dtype, device=tensor.device)
    tile = CPU_TILE if tensor.device.type == "cpu" else DEVICE_TILE
    step = max(1, tile // max(columns, 1))
    places = torch.arange(columns, dtype=torch.int32, device=tensor.device)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        order = (tensor[part].float() - base[part].float()).abs().sort(dim=1, stable=True).indices
        place = torch.empty(order.shape, dtype=torch.int32, device=tensor.device)
        found[part] = place.scatter_(1, order, places.expand_as(place)).to(dtype)
    return found


def _tiles(work: Pass) -> Iterator[tuple[int, int, tuple[Tensor, ...], list[Any]]]:
    """(start, stop, values, arguments) of each tile, tiles cut at rows where columns matter."""
    device = work.tensors[0].device
    tile = CPU_TILE if device.type == "cpu" else DEVICE_TILE
    if by_row(work.arguments):
        tile = max(1, tile // max(work.columns, 1)) * work.columns
    for begin, end in segments(work.arguments, work.size):
        for start in range(begin, end, max(tile, 1)):
            stop = min(start + tile, end)
            values = tuple(_tile(tensor, start, stop) for tensor in work.tensors)
            if work.base is not None:
                origin = _tile(work.base, start, stop)
                values = tuple(value - origin for value in values)
            change = partial(_given, start=start, stop=stop, columns=work.columns, device=device)
            yield start, stop, values, [mapped(each, change) for each in work.arguments]


def _tile(tensor: Tensor, start: int, stop: int) -> Tensor:
    return tensor.reshape(-1)[start:stop].float()


def _given(leaf: Any, *, start: int, stop: int, columns: int, device: torch.device) -> Any:
    """A leaf as the entry function sees it on one tile."""
    if isinstance(leaf, Cut):
        return threshold(leaf, start)
    if isinstance(leaf, Columns):
        return leaf.values.to(device).repeat((stop - start) // columns)
    if isinstance(leaf, Rows):
        rows = leaf.values[start // columns : stop // columns].to(device)
        return rows.repeat_interleave(columns)
    if isinstance(leaf, Entries):
        return _tile(leaf.values, start, stop).to(device)
    if isinstance(leaf, Uniforms):
        return draws.uniforms(leaf.key, start, stop, device)
    return c_float(leaf).value


def _given_at(leaf: Any, *, at: Tensor, columns: int) -> Any:
    """A leaf as the entry function sees it at flat indices."""
    if isinstance(leaf, Cut):
        found = torch.full(at.shape, threshold(leaf, leaf.last + 1), device=at.device)
        return found.masked_fill_(at <= leaf.last, threshold(leaf, leaf.last))
    if isinstance(leaf, Columns):
        return leaf.values.to(at.device)[at % columns]
    if isinstance(leaf, Rows):
        return leaf.values.to(at.device)[at // columns]
    if isinstance(leaf, Entries):
        return leaf.values.reshape(-1)[at.to(leaf.values.device)].float().to(at.device)
    if isinstance(leaf, Uniforms):
        return draws.uniforms_at(leaf.key, at)
    return c_float(leaf).value
