"""Order statistics: exact cuts by magnitude, from a sorted copy that is kept or from two histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods.kernel.entrywise import Number, Numbers, Pass
from evomerge.methods.kernel.leaves import EVERYTHING, NOTHING, Argument, Cut
from evomerge.methods.kernel.norms import GRID
from evomerge.methods.kernel.operands import Operands

SEARCHED = 1 << 18  # entries whose values are computed at once to find one: they fit an L2 cache

Ranking = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def largest(operands: Operands, index: int, count: int) -> Cut:
    """The cut that keeps the ``count`` entries of a delta of largest magnitude.

    Of entries that tie at the cut those with the lowest flat indices are kept.
    """
    if count <= 0:
        return NOTHING
    if count >= operands.size:
        return EVERYTHING
    value, above = order_statistic(operands, index, count)
    if math.isnan(value):
        return EVERYTHING  # the result is broken with any cut
    tensor, origin = operands.tensors[index], operands.origin
    return Cut(value, operands.passes.nth(tensor, origin, value, count - above))


def order_statistic(operands: Operands, index: int, count: int) -> tuple[float, int]:
    """The magnitude of rank ``count`` from above, and how many are larger."""
    if operands.facts.lasting:
        compute = partial(_ranked_magnitudes, operands, index)
        known = operands.facts.get("order statistics", compute, of=operands.names[index])
        if (found := look_up(known, count)) is not None:
            return found
    return select(partial(histogram, operands, index), count)


def histogram(operands: Operands, index: int, bucket: int | None = None) -> Tensor:
    """How many magnitudes of a delta have each value of their upper 16 bits, [32768].

    With ``bucket``: of those with these upper bits, each value of the lower 16, [65536].
    """
    if bucket is not None:
        tensor, origin = operands.tensors[index], operands.origin
        return operands.passes.histogram(tensor, origin, bucket)
    compute = partial(_upper_histogram, operands, index)
    return operands.facts.get("histogram", compute, of=operands.names[index])


def ranks(operands: Operands, index: int, length: int) -> Tensor:
    """Each entry's place, from 0, by magnitude among its delta's run of ``length`` entries.

    Entries that tie rank by position. Whole numbers (uint16 or int32) [runs, length].
    """
    compute = partial(_ranks, operands, index, length)
    return operands.facts.get(("ranks", length), compute, of=operands.names[index])


def top(
    operands: Operands,
    name: str,
    entry: Callable[..., Any],
    *arguments: Argument,
    fraction: float,
) -> Cut:
    """The cut that keeps the entries with the largest values of ``entry``.

    Of the ``n`` entries where the value is not 0, ``int(fraction n)`` are kept; of those that tie
    at the cut the ones with the lowest flat indices.

    Args:
        operands: the tensors.
        name: of these values among the facts.
        entry: makes the value, 0 or more, of the deltas of all models.
        arguments: its arguments.
        fraction: of the entries with a value.
    """
    work = Pass(entry, arguments, operands.tensors, operands.base)
    found = None
    if operands.facts.lasting:
        nonzero, known = operands.facts.get(
            (name, "order statistics"), partial(_ranked_values, operands, work)
        )
        found = look_up(known, int(fraction * nonzero))
    else:
        nonzero = sum(int(tile.count_nonzero()) for _, tile in _tiles(operands, work))
    count = int(fraction * nonzero)
    if count == 0:
        return NOTHING
    value, above = found or select(partial(_histogram_of_values, operands, work), count)
    return Cut(value, _nth(operands, work, value, count - above))


def ranking(values: Tensor, population: int) -> Ranking:
    """Rank, value and number of larger ones, for every rank on the grid of densities.

    Args:
        values: 0 or more; their memory is used to sort them.
        population: what the densities are fractions of.
    """
    if values.is_cpu:
        ascending = values.view(-1).numpy()
        ascending.sort()  # vectorised in NumPy: several times faster than torch
    else:
        ascending = values.view(-1).sort().values.cpu().numpy()
    counts = (np.arange(GRID + 1) / GRID * population).astype(np.int64)
    counts = np.sort(np.concatenate([counts, counts - 1]))
    counts = counts[(counts > 0) & (np.diff(counts, prepend=-1) > 0)]  # each once
    found = ascending[len(ascending) - counts]
    return counts, found, len(ascending) - np.searchsorted(ascending, found, "right")


def look_up(known: Ranking, count: int) -> tuple[float, int] | None:
    """The value of rank ``count`` from above, and how many are larger; None if off the grid."""
    counts, values, above = known
    at = int(np.searchsorted(counts, count))
    if at < len(counts) and counts[at] == count:
        return float(values[at]), int(above[at])
    return None


def select(histogram: Callable[[int | None], Tensor], count: int) -> tuple[float, int]:
    """The magnitude of rank ``count`` from above, and how many are larger, from two histograms.

    Args:
        histogram: counts of the upper 16 bits of the magnitudes; with a bucket, of the lower 16 of
            those in it (``_tiled.histogram``).
        count: 1 is the largest.
    """
    above, bits = 0, 0
    for shift in (16, 0):
        counts = histogram(bits >> 16 if shift == 0 else None)
        larger = counts.flip(0).cumsum(0)  # how many are in this bucket or in a higher one
        at = int(torch.searchsorted(larger, count - above))
        above += int(larger[at] - counts.flip(0)[at])
        bits |= (len(counts) - 1 - at) << shift
    return float(np.array([bits], np.uint32).view(np.float32)[0]), above


def _ranked_magnitudes(operands: Operands, index: int) -> Ranking:
    return ranking(operands.one(index).values(_magnitude), operands.size)


def _ranked_values(operands: Operands, work: Pass) -> tuple[int, Ranking]:
    values = operands.values(work.entry, *work.arguments)
    nonzero = int(values.count_nonzero())
    return nonzero, ranking(values, nonzero)


def _upper_histogram(operands: Operands, index: int) -> Tensor:
    counts = operands.passes.histogram(operands.tensors[index], operands.origin)
    return counts[: 1 << 15].int()  # the upper half would have the sign bit set


def _histogram_of_values(operands: Operands, work: Pass, bucket: int | None) -> Tensor:
    counts = torch.zeros(1 << 16, dtype=torch.int64)
    for _, tile in _tiles(operands, work):
        counts += operands.passes.histogram(tile, torch.zeros_like(tile), bucket)
    return counts


def _nth(operands: Operands, work: Pass, value: float, number: int) -> int:
    """Flat index of the ``number``-th entry (from 1) that has this value."""
    for start, tile in _tiles(operands, work):
        equal = tile.cpu().numpy() == np.float32(value)
        here = int(np.count_nonzero(equal))
        if number <= here:
            return start + int(np.flatnonzero(equal)[number - 1])
        number -= here
    return operands.size - 1


def _tiles(operands: Operands, work: Pass) -> Iterator[tuple[int, Tensor]]:
    """The values of each entry, tile after tile in the same memory, with the first flat index."""
    size = operands.size
    tile = SEARCHED if operands.device.type == "cpu" else 1 << 25
    scratch = torch.empty(1, min(tile, size), dtype=torch.float32, device=operands.device)
    for start in range(0, size, tile):
        stop = min(start + tile, size)
        parts = [tensor.view(1, -1)[:, start:stop] for tensor in work.tensors]
        base = None if work.base is None else work.base.view(1, -1)[:, start:stop]
        found = scratch[:, : stop - start]
        operands.passes.merge(Pass(work.entry, work.arguments, parts, base), found, add=False)
        yield start, found


def _ranks(operands: Operands, index: int, length: int) -> Tensor:
    shape = (operands.size // max(length, 1), length)
    source, origin = operands.tensors[index].view(shape), operands.origin.view(shape)
    return operands.passes.ranks(source, origin)


def _magnitude(deltas: Numbers) -> Number:
    return abs(deltas[0])
