"""Entrywise passes compiled for the CPU: every source read once, the result written once.

Numba turns an entry function into one vectorised loop over memory. The loop is written out for the
number of models and the kinds of arguments (a tuple of arrays would not vectorise), compiled at the
first use in a process and kept. The lock is released while it runs, so threads merge in parallel.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import torch
from numba.cpython.unsafe.tuple import tuple_setitem
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods import _draw, _entrywise, _tiled
from evomerge.methods._entrywise import (
    Argument,
    Columns,
    Cut,
    Entries,
    Rows,
    Uniforms,
    leaves,
    segments,
    threshold,
)

# a loop over many arrays is worth the check, once per call, that none of them overlap
llvm.set_option("", "-runtime-memory-check-threshold=128")
# LLVM leaves half of a 512-bit register unused by default; drawing numbers takes twice as long so
_FEATURES = llvm.get_host_cpu_features()
if numba.config.CPU_FEATURES is None and _FEATURES.get("avx512f"):
    numba.config.CPU_FEATURES = _FEATURES.flatten() + ",-prefer-256-bit"

SMALL = 1 << 15  # entries below which a pass is not worth compiling
SORTED = 1 << 17  # entries sorted at once: their keys fit an L2 cache


def _jit(function: Callable[..., Any], inlined: bool = False) -> Any:
    """``function`` compiled. Division by zero gives infinity, as in torch: a branch that raises would
    stop vectorisation, and so would a call, where LLVM finds the callee too long to inline it."""
    bare = inspect.unwrap(function)  # of what type checkers put around it
    return numba.njit(bare, nogil=True, error_model="numpy", forceinline=inlined)


_NATIVE = {torch.bfloat16, torch.float32}


def merge(
    entry: Callable[..., Any],
    arguments: Sequence[Argument],
    tensors: Sequence[Tensor],
    base: Tensor | None,
    scale: float,
    out: Tensor,
    add: bool = True,
) -> bool:
    """As ``_tiled.merge``, for tensors on the CPU."""
    target = out if out.dtype in _NATIVE else torch.empty(out.shape, dtype=torch.float32)
    inputs = [_array(tensor) for tensor in ([base] if base is not None else []) + [*tensors]]
    result = _array(target)
    kinds = tuple(array.dtype.name for array in inputs)
    run = _loop(entry, _shape(arguments), kinds, base is not None, result.dtype.name, add)
    if _not_worth_compiling(run, out):
        return _tiled.merge(entry, arguments, tensors, base, scale, out, add)
    broken = 0
    for start, stop in segments(arguments, out.numel()):
        broken |= run(
            *_span(arguments, out.shape[1], start, stop),
            result[start:stop],
            *(array[start:stop] for array in inputs),
            np.float32(scale),
            *_values(arguments, start, stop),
        )
    if target is not out:
        out.copy_(target)
        return not broken and bool(out.isfinite().all())
    return not broken


def sums(
    entry: Callable[..., Any],
    arguments: Sequence[Argument],
    tensors: Sequence[Tensor],
    base: Tensor | None,
    units: Sequence[float],
) -> list[int]:
    """As ``_tiled.sums``, for tensors on the CPU."""
    inputs = [_array(tensor) for tensor in ([base] if base is not None else []) + [*tensors]]
    kinds = tuple(array.dtype.name for array in inputs)
    run = _loop(entry, _shape(arguments), kinds, base is not None, count=len(units))
    if _not_worth_compiling(run, tensors[0]):
        return _tiled.sums(entry, arguments, tensors, base, units)
    totals = np.zeros(len(units), np.int64)
    inverse = np.array([1 / unit for unit in units], np.float32)
    for start, stop in segments(arguments, tensors[0].numel()):
        run(
            *_span(arguments, tensors[0].shape[1], start, stop),
            totals,
            inverse,
            *(array[start:stop] for array in inputs),
            *_values(arguments, start, stop),
        )
    return [int(total) for total in totals]


def _not_worth_compiling(function: Any, tensor: Tensor) -> bool:
    """True if a tensor is small and the function was not compiled for a larger one yet.

    The tiled passes give the same bytes.
    """
    return tensor.numel() < SMALL and not function.overloads


def _span(arguments: Sequence[Argument], columns: int, start: int, stop: int) -> tuple[int, int]:
    """Rows and columns of a segment; one long row where rows do not matter."""
    if any(isinstance(leaf, (Columns, Rows)) for leaf in leaves(arguments)):
        return (stop - start) // max(columns, 1), columns
    return 1, stop - start


def _array(tensor: Tensor) -> NDArray[Any]:
    """The memory of a contiguous tensor, flat; bfloat16 as its bits."""
    tensor = tensor.view(-1)
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return (tensor if tensor.dtype == torch.float32 else tensor.float()).numpy()


def _shape(arguments: Sequence[Argument]) -> tuple[Any, ...]:
    """What the loop's text depends on: the kind of each leaf, and which leaves form a tuple."""
    return tuple(
        tuple(map(_kind, argument)) if isinstance(argument, (tuple, list)) else _kind(argument)
        for argument in arguments
    )


def _kind(leaf: Any) -> str:
    if isinstance(leaf, Entries) and leaf.values.dtype == torch.bfloat16:
        return "Halves"
    return "Number" if isinstance(leaf, (float, int, Cut)) else type(leaf).__name__


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
            values.append(np.array(_draw.stream(leaf.key, start), np.uint32))
        else:
            values.append(np.float32(leaf))
    return values


def histogram(tensor: Tensor, base: Tensor, bucket: int | None = None) -> Tensor:
    """As ``_tiled.histogram``, for tensors on the CPU."""
    scan = _scan("count" if bucket is None else "refine", tensor, base)
    if _not_worth_compiling(scan, tensor):
        return _tiled.histogram(tensor, base, bucket)
    counts = np.zeros(1 << 16, np.int64)
    scan(_array(tensor), _array(base), counts, bucket or 0)
    return torch.from_numpy(counts)


def drawn_masses(
    tensor: Tensor, base: Tensor, key: int, thresholds: NDArray[np.float32], unit: float
) -> NDArray[np.int64]:
    """As ``_tiled.drawn_masses``, for tensors on the CPU."""
    add, s, b = _scan("masses", tensor, base), _array(tensor), _array(base)
    if _not_worth_compiling(add, tensor):
        return _tiled.drawn_masses(tensor, base, key, thresholds, unit)
    found = np.zeros(len(thresholds), np.int64)
    # the least 24-bit draw of each interval: compared as whole numbers
    limits = np.ceil(thresholds.astype(np.float64) * 2**24).astype(np.uint32)
    for start in range(0, tensor.numel(), 1 << 32):
        first, stride = _draw.stream(key, start)
        part = slice(start, start + (1 << 32))
        add(
            s[part],
            b[part],
            found,
            limits,
            np.float32(1 / unit),
            np.uint32(first),
            np.uint32(stride),
        )
    return found[:-1]


def nth(tensor: Tensor, base: Tensor, value: float, number: int) -> int:
    """As ``_tiled.nth``, for tensors on the CPU."""
    find = _scan("find", tensor, base)
    if _not_worth_compiling(find, tensor):
        return _tiled.nth(tensor, base, value, number)
    return int(find(_array(tensor), _array(base), np.float32(value), number))


def extent(tensor: Tensor, base: Tensor) -> float:
    """As ``_tiled.extent``, for tensors on the CPU."""
    scan = _scan("largest", tensor, base)
    if _not_worth_compiling(scan, tensor):
        return _tiled.extent(tensor, base)
    bits = scan(_array(tensor), _array(base))
    return float(np.array([min(bits, _tiled.LARGEST)], np.uint32).view(np.float32)[0])


def ranks(tensor: Tensor, base: Tensor) -> Tensor:
    """As ``_tiled.ranks``, for tensors on the CPU.

    Magnitude and column are sorted as one 64-bit number, which NumPy does vectorised.
    """
    rows, columns = tensor.shape
    found = np.empty((rows, columns), np.uint16 if columns <= 1 << 16 else np.int32)
    source, origin = (_array(each).reshape(rows, columns) for each in (tensor, base))
    make = _scan("keys", tensor, base)
    if _not_worth_compiling(make, tensor):
        return _tiled.ranks(tensor, base)
    step = max(1, SORTED // max(columns, 1))
    keys = np.empty((min(step, rows), columns), np.uint64)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        some = keys[: len(source[part])]
        make(source[part], origin[part], some)
        some.sort(axis=1)
        _place(some, found[part])
    return torch.from_numpy(found)


# -- the loop ------------------------------------------------------------------------------------

_READ = {  # how a leaf called {x} is read at entry i (flat index of the segment: k)
    "Number": "{x}",
    "Columns": "{x}[i]",
    "Rows": "{x}[row]",
    "Entries": "np.float32({x}[k])",
    "Halves": "widen({x}[k])",
    "Uniforms": "uniform({x}[0], {x}[1], np.uint32(k))",
}

_LOAD = {"uint16": "widen({x}[k])", "float32": "{x}[k]"}
_STORE = {
    "uint16": "out[k] = narrow(result); broken = np.uint32(broken | brokenness(widen(out[k])))",
    "float32": "out[k] = result; broken = np.uint32(broken | brokenness(result))",
}

_MERGE = """
def loop(rows, columns, out, {sources}, scale, {names}):
    broken = np.uint32(0)
    for row in range(rows):
        for i in range(columns):
            k = row * columns + i
            {values}
            merged = np.float32(np.float32(entry(({tuple},), {given})) * scale)
            {add}
            result = np.float32(merged + poison)
            {store}
    return broken >> np.uint32(31)
"""

_SUMS = """
def loop(rows, columns, totals, inverse, {sources}, {names}):
    {zeros}
    for row in range(rows):
        for i in range(columns):
            k = row * columns + i
            {values}
            found = entry(({tuple},), {given})
            {accumulate}
    {finish}
"""


_MAGNITUDE = "abs(np.float32({tensor} - {base}))"
_SCANS = {
    "count": """
def scan(s, b, counts, bucket):
    for k in range(s.size):
        counts[{magnitude}.view(np.uint32) >> np.uint32(16)] += 1
""",
    "refine": """
def scan(s, b, counts, bucket):
    for k in range(s.size):
        bits = {magnitude}.view(np.uint32)
        if bits >> np.uint32(16) == bucket:
            counts[bits & np.uint32(0xFFFF)] += 1
""",
    "masses": """
def scan(tensor, base, found, limits, inverse, first, stride):
    draws = np.empty(1024, np.uint32)
    amounts = np.empty(1024, np.int32)
    intervals = np.uint64(limits.size - 1)
    for start in range(0, tensor.size, 1024):
        s, b = tensor[start : start + 1024], base[start : start + 1024]
        for k in range(s.size):
            draws[k] = draw(first, stride, np.uint32(start + k))
        for k in range(s.size):
            amounts[k] = whole({magnitude} * inverse)
        for k in range(s.size):
            at = np.int64(np.uint64(draws[k]) * intervals >> np.uint64(24))
            at += np.int64(limits[at + 1] <= draws[k])
            at -= np.int64(limits[at] > draws[k])
            found[at] += amounts[k]
""",
    "largest": """
def scan(s, b):
    largest = np.uint32(0)
    for k in range(s.size):
        bits = {magnitude}.view(np.uint32)
        largest = bits if bits > largest else largest
    return largest
""",
    "keys": """
def scan(s, b, keys):
    for row in range(s.shape[0]):
        for i in range(s.shape[1]):
            k = (row, i)
            bits = {magnitude}.view(np.uint32)
            keys[k] = np.uint64(bits) << np.uint64(32) | np.uint64(i)
""",
    "find": """
def scan(tensor, base, value, number):
    seen = 0
    for start in range(0, tensor.size, 4096):
        s, b = tensor[start:start + 4096], base[start:start + 4096]
        here = np.int32(0)
        for k in range(s.size):
            here += np.int32({magnitude} == value)
        if seen + here >= number:
            for k in range(s.size):
                seen += {magnitude} == value
                if seen == number:
                    return start + k
        seen += here
    return tensor.size - 1
""",
}


def _scan(what: str, tensor: Tensor, base: Tensor) -> Callable[..., Any]:
    return _scan_of(what, str(_array(tensor).dtype), str(_array(base).dtype))


@functools.cache
def _scan_of(what: str, tensor: str, base: str) -> Callable[..., Any]:
    """A compiled scan over |tensor - base|."""
    magnitude = _MAGNITUDE.format(
        tensor=_LOAD[tensor].format(x="s"), base=_LOAD[base].format(x="b")
    )
    return _built(_SCANS[what].format(magnitude=f"np.float32({magnitude})"), "scan", {})


@functools.cache
def _loop(
    entry: Callable[..., Any],
    shape: tuple[Any, ...],
    arrays: tuple[str, ...],
    has_base: bool,
    out: str = "float32",
    add: bool = False,
    count: int = 0,
) -> Callable[..., Any]:
    """The compiled loop of ``entry`` for these kinds of arguments and arrays.

    ``count`` 0 makes the merging loop, else one that sums so many values.
    """
    models = len(arrays) - has_base
    names: list[str] = []
    given: list[str] = []
    for kind in shape:
        read = []
        for each in kind if isinstance(kind, tuple) else (kind,):
            names.append(f"a{len(names)}")
            read.append(_READ[each].format(x=names[-1]))
        given.append(f"({', '.join(read)},)" if isinstance(kind, tuple) else read[0])
    sources = [f"s{number}" for number in range(models)]
    origin = " - base" if has_base else ""
    read = [_LOAD[kind] for kind in arrays]
    lines = [f"base = {read.pop(0).format(x='b')}"] if has_base else []
    lines += [f"v{n} = np.float32({form.format(x=f's{n}')}{origin})" for n, form in enumerate(read)]
    lines += ["poison = " + " + ".join(f"(v{n} - v{n})" for n in range(models))]
    indent = "\n            "
    text = (_SUMS if count else _MERGE).format(
        sources=", ".join([*(["b"] if has_base else []), *sources]),
        names=", ".join(names),
        values=indent.join(lines),
        tuple=", ".join(f"v{n}" for n in range(models)),
        given=", ".join(given),
        store=_STORE[out],
        add="merged = np.float32(base + merged)" if has_base and add else "",
        zeros="\n    ".join(f"t{n} = np.int64(0); u{n} = inverse[{n}]" for n in range(count)),
        accumulate=indent.join(
            f"t{n} += whole(np.float32(found[{n}]) * u{n})" for n in range(count)
        ),
        finish="\n    ".join(f"totals[{n}] += t{n}" for n in range(count)),
    )
    return _built(text, "loop", {"entry": _compiled(entry)})


def _built(text: str, name: str, names: dict[str, Any]) -> Callable[..., Any]:
    """The function ``name`` of ``text``, compiled on demand for each signature."""
    space: dict[str, Any] = {
        "np": np,
        "widen": _widen,
        "narrow": _narrow,
        "brokenness": _brokenness,
        "draw": _draw24,
        "uniform": _uniform,
        "whole": _whole,
        **names,
    }
    exec(text, space)
    function: Callable[..., Any] = _jit(space[name])
    return function


def _compiled(function: Callable[..., Any]) -> Any:
    """``function`` for the compiler, with the functions it calls."""
    bare = inspect.unwrap(function)
    space = dict(bare.__globals__)
    for name in bare.__code__.co_names:
        called = space.get(name)
        if isinstance(called, types.FunctionType) and called not in _OVERLOADED:
            space[name] = _compiled(called)
    return _jit(types.FunctionType(bare.__code__, space, bare.__name__), inlined=True)


_OVERLOADED = (_entrywise.where, _entrywise.put)


@overload(_entrywise.where, strict=False)  # type: ignore[untyped-decorator]
def _where(condition: Any, value: Any, other: Any) -> Any:
    return lambda condition, value, other: np.float32(value) if condition else np.float32(other)


@overload(_entrywise.put, strict=False)  # type: ignore[untyped-decorator]
def _put(values: Any, index: Any, value: Any) -> Any:
    return lambda values, index, value: tuple_setitem(values, index, np.float32(value))


@_jit
def _place(keys: Any, found: Any) -> None:
    """Where each column, the lower half of a key, stands in its row of sorted keys."""
    for row in range(keys.shape[0]):
        for place in range(keys.shape[1]):
            found[row, np.int64(keys[row, place] & np.uint64(0xFFFFFFFF))] = place


@_jit
def _widen(bits: Any) -> Any:
    """bfloat16 bits as float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_jit
def _brokenness(value: Any) -> Any:
    """A word whose highest bit is set for NaN and infinity: their exponent overflows into it."""
    exponent = np.uint32(np.float32(value).view(np.uint32) & np.uint32(0x7F800000))
    return np.uint32(exponent + np.uint32(0x00800000))


@_jit
def _narrow(value: Any) -> Any:
    """float32 as bfloat16 bits, to nearest even."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    short = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.uint16(0x7FC0) if value != value else np.uint16(short)  # rounding may break a NaN


@_jit
def _draw24(start: Any, stride: Any, index: Any) -> Any:
    """The upper 24 bits of a draw's word, as in ``_draw``."""
    word = np.uint32(np.uint32(index * stride) + start)
    word = np.uint32(word ^ np.uint32(word >> np.uint32(16)))
    word = np.uint32(word * np.uint32(_draw.FIRST))
    word = np.uint32(word ^ np.uint32(word >> np.uint32(15)))
    word = np.uint32(word * np.uint32(_draw.SECOND))
    word = np.uint32(word ^ np.uint32(word >> np.uint32(15)))
    return np.uint32(word >> np.uint32(8))


@_jit
def _uniform(start: Any, stride: Any, index: Any) -> Any:
    return np.float32(_draw24(start, stride, index)) * np.float32(2.0**-24)


@_jit
def _whole(value: Any) -> Any:
    return np.int32(np.rint(value))
