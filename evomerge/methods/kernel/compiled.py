"""Entrywise passes compiled for the CPU: every source read once, the result written once.

They give the bytes of ``tiled``, many times faster. Numba turns an entry function into one
vectorised loop over memory, at the first use and once for all processes (``compiler``). The lock is
released while it runs, so threads merge in parallel.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods.kernel import draws, tiled
from evomerge.methods.kernel.codegen import (
    Loop,
    shape_of,
    text_of_loop,
    text_of_places,
    text_of_scan,
)
from evomerge.methods.kernel.compiler import compiled
from evomerge.methods.kernel.entrywise import Pass
from evomerge.methods.kernel.leaves import (
    Argument,
    Columns,
    Cut,
    Entries,
    Rows,
    Uniforms,
    by_row,
    leaves,
    segments,
    threshold,
)
from evomerge.methods.kernel.translation import Untranslatable

SMALL = 1 << 15  # entries below which a pass is not worth compiling: the tiled ones will do
SORTED = 1 << 17  # entries sorted at once: their keys fit an L2 cache

_NATIVE = {torch.bfloat16, torch.float32}


def merge(work: Pass, out: Tensor, *, scale: float = 1.0, add: bool = True) -> bool:
    """As ``tiled.merge``, for tensors on the CPU."""
    stored = "uint16" if out.dtype == torch.bfloat16 else "float32"
    run = _loop(work, out=stored, add=add)
    if run is None:
        return tiled.merge(work, out, scale=scale, add=add)
    target = out if out.dtype in _NATIVE else torch.empty(out.shape, dtype=torch.float32)
    inputs, result = _inputs(work), _array(target)
    broken = 0
    for start, stop in segments(work.arguments, work.size):
        broken |= run(
            *_span(work, start, stop),
            result[start:stop],
            *(array[start:stop] for array in inputs),
            np.float32(scale),
            *_values(work.arguments, start, stop),
        )
    if target is not out:
        out.copy_(target)
        return not broken and bool(out.isfinite().all())
    return not broken


def sums(work: Pass, units: Sequence[float]) -> list[int]:
    """As ``tiled.sums``, for tensors on the CPU."""
    run = _loop(work, count=len(units))
    if run is None:
        return tiled.sums(work, units)
    inputs = _inputs(work)
    totals = np.zeros(len(units), np.int64)
    inverse = np.array([1 / unit for unit in units], np.float32)
    for start, stop in segments(work.arguments, work.size):
        run(
            *_span(work, start, stop),
            totals,
            inverse,
            *(array[start:stop] for array in inputs),
            *_values(work.arguments, start, stop),
        )
    return [int(total) for total in totals]


def histogram(tensor: Tensor, base: Tensor, bucket: int | None = None) -> Tensor:
    """As ``tiled.histogram``, for tensors on the CPU."""
    scan = _scan("count" if bucket is None else "refine", tensor, base)
    if scan is None:
        return tiled.histogram(tensor, base, bucket)
    counts = np.zeros(1 << 16, np.int64)
    scan(_array(tensor), _array(base), counts, bucket or 0)
    return torch.from_numpy(counts)


def extent(tensor: Tensor, base: Tensor) -> float:
    """As ``tiled.extent``, for tensors on the CPU."""
    scan = _scan("largest", tensor, base)
    if scan is None:
        return tiled.extent(tensor, base)
    bits = scan(_array(tensor), _array(base))
    return float(np.array([min(bits, tiled.LARGEST)], np.uint32).view(np.float32)[0])


def drawn_masses(
    tensor: Tensor, base: Tensor, key: int, thresholds: NDArray[np.float32], unit: float
) -> NDArray[np.int64]:
    """As ``tiled.drawn_masses``, for tensors on the CPU."""
    add = _scan("masses", tensor, base)
    if add is None:
        return tiled.drawn_masses(tensor, base, key, thresholds, unit)
    found = np.zeros(len(thresholds), np.int64)
    # the least 24-bit draw of each interval: compared as whole numbers
    limits = np.ceil(thresholds.astype(np.float64) * 2**24).astype(np.uint32)
    inverse = np.float32(1 / unit)
    source, origin = _array(tensor), _array(base)
    for start in range(0, tensor.numel(), 1 << 32):
        part = slice(start, start + (1 << 32))
        add(source[part], origin[part], found, limits, inverse, _stream(key, start))
    return found[:-1]


def nth(tensor: Tensor, base: Tensor, value: float, number: int) -> int:
    """As ``tiled.nth``, for tensors on the CPU."""
    find = _scan("find", tensor, base)
    if find is None:
        return tiled.nth(tensor, base, value, number)
    return int(find(_array(tensor), _array(base), np.float32(value), number))


def ranks(tensor: Tensor, base: Tensor) -> Tensor:
    """As ``tiled.ranks``, for tensors on the CPU.

    Magnitude and column are sorted as one 64-bit number, which NumPy does vectorised.
    """
    make = _scan("keys", tensor, base)
    if make is None:
        return tiled.ranks(tensor, base)
    rows, columns = tensor.shape
    found = np.empty((rows, columns), np.uint16 if columns <= 1 << 16 else np.int32)
    source, origin = (_array(each).reshape(rows, columns) for each in (tensor, base))
    place = compiled(text_of_places(), "places")
    step = max(1, SORTED // max(columns, 1))
    keys = np.empty((min(step, rows), columns), np.uint64)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        some = keys[: len(source[part])]
        make(source[part], origin[part], some)
        some.sort(axis=1)
        place(some, found[part])
    return torch.from_numpy(found)


# -- what is run ---------------------------------------------------------------------------------

_worth_compiling: set[Any] = set()  # loops and scans that a large tensor asked for


def _loop(work: Pass, *, out: str | None = None, add: bool = False, count: int = 0) -> Any:
    """The compiled loop; None where the tiled pass is to run."""
    base = None if work.base is None else _stored(work.base)
    sources = tuple(map(_stored, work.tensors))
    shape = tuple(map(shape_of, work.arguments))
    loop = Loop(work.entry, shape, base, sources, out, add)
    if count:
        loop = Loop(work.entry, shape, base, sources, count=count)
    return _compiled_loop(loop) if _worth(loop, work.size) else None


def _scan(what: str, tensor: Tensor, base: Tensor) -> Any:
    """The compiled scan; None where the tiled one is to run."""
    scan = (what, _stored(tensor), _stored(base))
    return _compiled_scan(*scan) if _worth(scan, tensor.numel()) else None


def _worth(what: Any, size: int) -> bool:
    """Whether a tensor is large, or what it needs was compiled for a larger one."""
    if size >= SMALL:
        _worth_compiling.add(what)
    return what in _worth_compiling


@functools.cache
def _compiled_loop(loop: Loop) -> Any:
    try:
        return compiled(text_of_loop(loop), "loop")
    except Untranslatable:
        return None


@functools.cache
def _compiled_scan(what: str, tensor: str, base: str) -> Any:
    return compiled(text_of_scan(what, tensor, base), "scan")


# -- what it is given ----------------------------------------------------------------------------


def _stored(tensor: Tensor) -> str:
    """The dtype of ``_array``."""
    return "uint16" if tensor.dtype == torch.bfloat16 else "float32"


def _array(tensor: Tensor) -> NDArray[Any]:
    """The memory of a contiguous tensor, flat; bfloat16 as its bits."""
    tensor = tensor.view(-1)
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return (tensor if tensor.dtype == torch.float32 else tensor.float()).numpy()


def _inputs(work: Pass) -> list[NDArray[Any]]:
    return [_array(each) for each in ([] if work.base is None else [work.base]) + [*work.tensors]]


def _span(work: Pass, start: int, stop: int) -> tuple[int, int]:
    """Rows and columns of a segment; one long row where rows do not matter."""
    if by_row(work.arguments):
        return (stop - start) // max(work.columns, 1), work.columns
    return 1, stop - start


def _values(arguments: Sequence[Argument], start: int, stop: int) -> list[Any]:
    """The leaves as the loop takes them."""
    values: list[Any] = []
    for leaf in leaves(arguments):
        if isinstance(leaf, Cut):
            values.append(np.float32(threshold(leaf, start)))
        elif isinstance(leaf, (Columns, Rows)):
            values.append(leaf.values.float().contiguous().numpy())
        elif isinstance(leaf, Entries):
            array = leaf.values.contiguous().view(-1)[start:stop]
            half = array.dtype == torch.bfloat16
            values.append((array.view(torch.uint16) if half else array).numpy())
        elif isinstance(leaf, Uniforms):
            values.append(_stream(leaf.key, start))
        else:
            values.append(np.float32(leaf))
    return values


def _stream(key: int, start: int) -> NDArray[np.uint32]:
    return np.array(draws.stream(key, start), np.uint32)
