"""Code generation: the loops and scans of the compiled passes, as text for the compiler.

A loop is written out for the number of models and the kinds of arguments, since a tuple of arrays
would not vectorise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.methods.kernel import primitives
from evomerge.methods.kernel.leaves import Argument, Cut, Entries
from evomerge.methods.kernel.translation import Translation

Shape = str | tuple[Any, ...]  # a leaf's kind; the class of a struct, or None, and its parts


@dataclass(frozen=True)
class Loop:
    """All that the text of a loop depends on.

    Attributes:
        entry: the entry function.
        shape: of its arguments.
        base: how the base is stored, uint16 being the bits of bfloat16; None: there is none.
        sources: how the sources are stored.
        out: how the result is stored; None: values are summed.
        add: whether the base is added to the result.
        count: how many values are summed.
    """

    entry: Callable[..., Any]
    shape: tuple[Shape, ...]
    base: str | None
    sources: tuple[str, ...]
    out: str | None = None
    add: bool = False
    count: int = 0


def shape_of(argument: Argument) -> Shape:
    """What the text depends on: the kind of each leaf, and which leaves form a struct or tuple."""
    if isinstance(argument, (tuple, list)):
        kind = type(argument) if hasattr(argument, "_fields") else None
        return (kind, *map(shape_of, argument))
    if isinstance(argument, Entries) and argument.values.dtype == torch.bfloat16:
        return "Halves"
    return "Number" if isinstance(argument, (float, int, Cut)) else type(argument).__name__


_READ = {  # how a leaf called {x} is read at entry i (flat index of the segment: k)
    "Number": "{x}",
    "Columns": "{x}[i]",
    "Rows": "{x}[row]",
    "Entries": "np.float32({x}[k])",
    "Halves": "$widen({x}[k])",
    "Uniforms": "$uniform({x}[0], {x}[1], np.uint32(k))",
}

_LOAD = {"uint16": "$widen({x}[k])", "float32": "{x}[k]"}
_STORE = {
    "uint16": "out[k] = $narrow(result); broken = np.uint32(broken | $brokenness($widen(out[k])))",
    "float32": "out[k] = result; broken = np.uint32(broken | $brokenness(result))",
}

_MERGE = """
def loop(rows, columns, out, {arrays}, scale, {names}):
    broken = np.uint32(0)
    for row in range(rows):
        for i in range(columns):
            k = row * columns + i
            {values}
            merged = np.float32(np.float32({entry}(({tuple},), {given})) * scale)
            {add}
            result = np.float32(merged + poison)
            {store}
    return broken >> np.uint32(31)
"""

_SUMS = """
def loop(rows, columns, totals, inverse, {arrays}, {names}):
    {zeros}
    for row in range(rows):
        for i in range(columns):
            k = row * columns + i
            {values}
            found = {entry}(({tuple},), {given})
            {accumulate}
    {finish}
"""

# Over |tensor - base|, which is called {magnitude}.
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
def scan(tensor, base, found, limits, inverse, stream):
    first, stride = stream[0], stream[1]
    draws = np.empty(1024, np.uint32)
    amounts = np.empty(1024, np.int32)
    intervals = np.uint64(limits.size - 1)
    for start in range(0, tensor.size, 1024):
        s, b = tensor[start : start + 1024], base[start : start + 1024]
        for k in range(s.size):
            draws[k] = $draw(first, stride, np.uint32(start + k))
        for k in range(s.size):
            amounts[k] = $whole({magnitude} * inverse)
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

# Where each column, the lower half of a key, stands in its row of sorted keys.
PLACES = """
def places(keys, found):
    for row in range(keys.shape[0]):
        for place in range(keys.shape[1]):
            found[row, np.int64(keys[row, place] & np.uint64(0xFFFFFFFF))] = place
"""


def text_of_scan(what: str, tensor: str, base: str) -> str:
    """A module with the function ``scan`` for a tensor and a base that are stored so."""
    difference = f"{_LOAD[tensor].format(x='s')} - {_LOAD[base].format(x='b')}"
    magnitude = f"np.float32(abs(np.float32({difference})))"
    return _module(Translation(), _SCANS[what].format(magnitude=magnitude))


def text_of_places() -> str:
    """A module with the function ``places``."""
    return _module(Translation(), PLACES)


def text_of_loop(loop: Loop) -> str:
    """A module with the function ``loop``.

    Raises:
        Untranslatable: the lines of the entry function are not to be had.
        TypeError: it names what the compiler cannot know.
    """
    translation = Translation()
    entry = translation.name(loop.entry)
    names: list[str] = []
    given = [_given(translation, part, names) for part in loop.shape]
    count = len(loop.sources)
    sources = [f"s{number}" for number in range(count)]
    origin = " - base" if loop.base else ""
    lines = [f"base = {_LOAD[loop.base].format(x='b')}"] if loop.base else []
    lines += [
        f"v{n} = np.float32({_LOAD[kind].format(x=f's{n}')}{origin})"
        for n, kind in enumerate(loop.sources)
    ]
    lines += ["poison = " + " + ".join(f"(v{n} - v{n})" for n in range(count))]
    indent = "\n            "
    text = (_SUMS if loop.out is None else _MERGE).format(
        entry=entry,
        arrays=", ".join([*(["b"] if loop.base else []), *sources]),
        names=", ".join(names),
        values=indent.join(lines),
        tuple=", ".join(f"v{n}" for n in range(count)),
        given=", ".join(given),
        store=_STORE[loop.out or "float32"],
        add="merged = np.float32(base + merged)" if loop.base and loop.add else "",
        zeros="\n    ".join(f"t{n} = np.int64(0); u{n} = inverse[{n}]" for n in range(loop.count)),
        accumulate=indent.join(
            f"t{n} += $whole(np.float32(found[{n}]) * u{n})" for n in range(loop.count)
        ),
        finish="\n    ".join(f"totals[{n}] += t{n}" for n in range(loop.count)),
    )
    return _module(translation, text)


def _given(translation: Translation, shape: Shape, names: list[str]) -> str:
    """An argument of the entry function, of leaves that get the next names."""
    if isinstance(shape, str):
        names.append(f"a{len(names)}")
        return _READ[shape].format(x=names[-1])
    kind, *parts = shape
    inner = ", ".join(_given(translation, part, names) for part in parts)
    return f"({inner},)" if kind is None else f"{translation.name(kind)}({inner})"


def _module(translation: Translation, text: str) -> str:
    """The text behind all that it calls, a word of ``primitives`` being marked with a dollar."""
    called = re.sub(r"\$(\w+)", lambda found: translation.name(vars(primitives)[found[1]]), text)
    return translation.text(called)
