"""Operands: the tensors that one merge works on, with the facts that entrywise kernels plan from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge import seeds
from evomerge.methods import _tiled
from evomerge.methods._entrywise import Argument, Cut, Entries, Entrywise, Uniforms, put
from evomerge.methods._facts import Facts

GRID = 10_000  # densities have four decimals, so these are all that a search asks for

SEARCHED = 1 << 18  # entries whose values are computed at once to find one: they fit an L2 cache

EVERYTHING, NOTHING = Cut(0.0, -1), Cut(math.inf, -1)


class Operands:
    """The sources' and the base's tensor of one name, as stored: mapped memory is read in place.

    Attributes:
        names: the models, in order.
        shape: of the tensor.
        tensors: the sources as [rows, columns], contiguous, any floating dtype; a tensor of less
            than two axes is one row, one of more is [first axis, rest].
        base: the base the same way, or None.
        facts: what is known of these tensors.
    """

    def __init__(
        self,
        models: Mapping[str, Tensor],
        base: Tensor | None,
        facts: Facts,
        draw_key: Callable[[str], int],
        noise: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.names = tuple(models)
        self.shape = next(iter(models.values())).shape
        self.tensors = tuple(_matrix(tensor) for tensor in models.values())
        self.base = None if base is None else _matrix(base.to(self.device))
        self.facts = facts
        self._draw_key, self._noise = draw_key, noise

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    @property
    def size(self) -> int:
        return self.tensors[0].numel()

    @property
    def rows(self) -> int:
        return self.tensors[0].shape[0]

    @property
    def columns(self) -> int:
        return self.tensors[0].shape[1]

    def __len__(self) -> int:
        return len(self.names)

    # -- passes over memory ----------------------------------------------------------------------

    def merge(
        self, merge: Entrywise, out: Tensor | None = None, scale: float = 1.0
    ) -> tuple[Tensor, bool]:
        """Run an entrywise merge into ``out``; the result, and whether it is finite."""
        if out is None:
            out = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        base = self.base if merge.of == "deltas" else None
        if base is None and scale != 1.0:
            raise NotImplementedError("a merge of tensors has no delta to scale")
        finite = self._engine.merge(
            merge.entry,
            merge.arguments,
            self.tensors,
            base,
            scale,
            out.view(self.rows, self.columns),
        )
        return out, finite

    def sums(
        self, entry: Callable[..., Any], *arguments: Argument, limits: Sequence[float]
    ) -> list[float]:
        """Sums over all entries of the values that ``entry`` (of the deltas) returns as a tuple.

        Exact up to rounding each value to 2**-30 of its limit, hence the same on every device and
        in any order.

        Args:
            entry: as in ``Entrywise``; returns one value per limit.
            arguments: its arguments.
            limits: upper bounds of the values' magnitudes.
        """
        units = [_unit(limit) for limit in limits]
        found = self._engine.sums(entry, arguments, self.tensors, self.base, units)
        return [total * unit for total, unit in zip(found, units, strict=True)]

    def delta(self, index: int) -> Tensor:
        """One source minus base, float32 [rows, columns], a fresh tensor."""
        return self._pass(_value, index)

    def values(self, entry: Callable[..., Any], *arguments: Argument) -> Tensor:
        """What ``entry`` (of the deltas) returns for each entry, float32 [rows, columns]."""
        out = torch.empty(self.rows, self.columns, dtype=torch.float32, device=self.device)
        self._engine.merge(entry, arguments, self.tensors, self.base, 1.0, out, add=False)
        return out

    def _pass(self, entry: Callable[..., Any], index: int) -> Tensor:
        out = torch.empty(self.rows, self.columns, dtype=torch.float32, device=self.device)
        self._engine.merge(entry, (), [self.tensors[index]], self.base, 1.0, out, add=False)
        return out

    @property
    def _engine(self) -> ModuleType:
        return _compiled_engine() if self.device.type == "cpu" else _tiled

    def one(self, index: int) -> Operands:
        """The operands of one source alone."""
        model = {self.names[index]: self.tensors[index]}
        return Operands(model, self.base, self.facts, self._draw_key)

    # -- facts -----------------------------------------------------------------------------------

    def extent(self, index: int) -> float:
        """The largest magnitude of a delta."""

        def compute() -> float:
            found: float = self._engine.extent(self.tensors[index], self._origin)
            return found

        return self.facts.get("extent", compute, of=self.names[index])

    def histogram(self, index: int, bucket: int | None = None) -> Tensor:
        """How many magnitudes of a delta have each value of their upper 16 bits, [32768].

        With ``bucket``: of those with these upper bits, each value of the lower 16, [65536].
        """
        if bucket is not None:
            found: Tensor = self._engine.histogram(self.tensors[index], self._origin, bucket)
            return found

        def compute() -> Tensor:
            counts: Tensor = self._engine.histogram(self.tensors[index], self._origin)
            return counts[: 1 << 15].int()  # the upper half would have the sign bit set

        return self.facts.get("histogram", compute, of=self.names[index])

    def mass(self, index: int) -> float:
        """The L1 norm of a delta."""

        def compute() -> float:
            return self.one(index).sums(_magnitudes, limits=[self.extent(index)])[0]

        return self.facts.get("mass", compute, of=self.names[index])

    def drawn_mass(self, index: int, draws: object, probability: float) -> float | None:
        """The L1 norm of the entries of a delta whose draw is below ``probability``.

        None where only a pass over the tensor can tell: a probability off the grid, draws that were
        given, or facts that are not kept.
        """
        step = round(probability * GRID)
        if not (isinstance(draws, Uniforms) and self.facts.lasting and step / GRID == probability):
            return None

        def compute() -> np.ndarray:
            unit = _unit(self.extent(index))
            thresholds = (np.arange(GRID + 1) / GRID).astype(np.float32)
            whole = self._engine.drawn_masses(
                self.tensors[index], self._origin, draws.key, thresholds, unit
            )
            return np.concatenate([[0.0], np.cumsum(whole)[:GRID] * unit])

        table = self.facts.get(("drawn mass", draws.key), compute, of=self.names[index])
        return float(table[step])

    def largest(self, index: int, count: int) -> Cut:
        """The cut that keeps the ``count`` entries of a delta of largest magnitude.

        Of entries that tie at the cut those with the lowest flat indices are kept.
        """
        if count <= 0:
            return NOTHING
        if count >= self.size:
            return EVERYTHING
        value, above = self.order_statistic(index, count)
        if math.isnan(value):
            return EVERYTHING  # the result is broken with any cut
        number = count - above
        last = self._engine.nth(self.tensors[index], self._origin, value, number)
        return Cut(value, last)

    def order_statistic(self, index: int, count: int) -> tuple[float, int]:
        """The magnitude of rank ``count`` from above, and how many are larger."""

        def compute() -> Ranking:
            return ranking(self._pass(_magnitude, index), self.size)

        if self.facts.lasting:
            known = self.facts.get("order statistics", compute, of=self.names[index])
            if (found := look_up(known, count)) is not None:
                return found
        return select(lambda bucket: self.histogram(index, bucket), count)

    def top(
        self, name: str, entry: Callable[..., Any], *arguments: Argument, fraction: float
    ) -> Cut:
        """The cut that keeps the entries with the largest values of ``entry``.

        Of the ``n`` entries where the value is not 0, ``int(fraction n)`` are kept; of those that
        tie at the cut the ones with the lowest flat indices.

        Args:
            name: of these values among the facts.
            entry: makes the value, 0 or more, of the deltas of all models.
            arguments: its arguments.
            fraction: of the entries with a value.
        """

        def compute() -> tuple[int, Ranking]:
            values = self.values(entry, *arguments)
            nonzero = int(values.count_nonzero())
            return nonzero, ranking(values, nonzero)

        def histogram(bucket: int | None) -> Tensor:
            counts = torch.zeros(1 << 16, dtype=torch.int64)
            for _, tile in self._tiles_of(entry, arguments):
                counts += self._engine.histogram(tile, torch.zeros_like(tile), bucket)
            return counts

        found = None
        if self.facts.lasting:
            nonzero, known = self.facts.get((name, "order statistics"), compute)
            found = look_up(known, int(fraction * nonzero))
        else:
            tiles = self._tiles_of(entry, arguments)
            nonzero = sum(int(tile.count_nonzero()) for _, tile in tiles)
        count = int(fraction * nonzero)
        if count == 0:
            return NOTHING
        value, above = found or select(histogram, count)
        return Cut(value, self._nth(entry, arguments, value, count - above))

    def _nth(
        self, entry: Callable[..., Any], arguments: Sequence[Argument], value: float, number: int
    ) -> int:
        """Flat index of the ``number``-th entry (from 1) where ``entry`` is ``value``."""
        for start, tile in self._tiles_of(entry, arguments):
            equal = tile.cpu().numpy() == np.float32(value)
            here = int(np.count_nonzero(equal))
            if number <= here:
                return start + int(np.flatnonzero(equal)[number - 1])
            number -= here
        return self.size - 1

    def _tiles_of(
        self, entry: Callable[..., Any], arguments: Sequence[Argument]
    ) -> Iterator[tuple[int, Tensor]]:
        """What ``entry`` returns, tile after tile in the same memory, with the first flat index."""
        tile = SEARCHED if self.device.type == "cpu" else 1 << 25
        scratch = torch.empty(1, min(tile, self.size), dtype=torch.float32, device=self.device)
        for start in range(0, self.size, tile):
            stop = min(start + tile, self.size)
            parts = [tensor.view(1, -1)[:, start:stop] for tensor in self.tensors]
            base = None if self.base is None else self.base.view(1, -1)[:, start:stop]
            found = scratch[:, : stop - start]
            self._engine.merge(entry, arguments, parts, base, 1.0, found, add=False)
            yield start, found

    def ranks(self, index: int, length: int) -> Tensor:
        """Each entry's place, from 0, by magnitude among its delta's run of ``length`` entries.

        Entries that tie rank by position. Whole numbers (uint16 or int32) [runs, length].
        """

        def compute() -> Tensor:
            shape = (self.size // max(length, 1), length)
            source, origin = self.tensors[index].view(shape), self._origin.view(shape)
            found: Tensor = self._engine.ranks(source, origin)
            return found

        return self.facts.get(("ranks", length), compute, of=self.names[index])

    def gram(self) -> Tensor:
        """Inner products of the deltas, float64 [models, models]."""
        return self.facts.get("gram", self._gram)

    def _gram(self) -> Tensor:
        count = len(self)
        pairs = [(i, j) for i in range(count) for j in range(i + 1)]
        extents = [self.extent(index) for index in range(count)]
        limits = [extents[i] * extents[j] for i, j in pairs]
        gram = torch.zeros(count, count, dtype=torch.float64)
        for (i, j), found in zip(pairs, self.sums(_products, [0.0] * len(pairs), limits=limits)):
            gram[i, j] = gram[j, i] = found
        return gram

    def uniforms(self) -> list[Uniforms | Entries]:
        """Per model, the draws that decide which entries it drops."""
        if self._noise is not None:
            return [Entries(self._noise[name].float()) for name in self.names]
        return [Uniforms(self._draw_key(name)) for name in self.names]

    @property
    def _origin(self) -> Tensor:
        return torch.zeros_like(self.tensors[0]) if self.base is None else self.base


Ranking = tuple[np.ndarray, np.ndarray, np.ndarray]


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


def draw_key(seed: int, tensor: str, model: str) -> int:
    """The key of one model's draws for one tensor."""
    return seeds.key(seed, "noise", tensor, model) & (1 << 64) - 1


def _matrix(tensor: Tensor) -> Tensor:
    rows = tensor.shape[0] if tensor.ndim > 1 else 1
    columns = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else tensor.numel()
    if tensor.dtype not in (torch.bfloat16, torch.float32):
        tensor = tensor.float()  # once, rather than in every pass
    return tensor.reshape(rows, columns).contiguous()


def _unit(limit: float) -> float:
    """A power of two of which no value up to ``limit`` has more than 2**30."""
    return 2.0 ** (math.frexp(max(limit, 2.0**-90))[1] - 30)


def _value(deltas: Sequence[Any]) -> Any:
    return deltas[0]


def _magnitude(deltas: Sequence[Any]) -> Any:
    return abs(deltas[0])


def _magnitudes(deltas: Sequence[Any]) -> Any:
    return (abs(deltas[0]),)


def _products(deltas: Sequence[Any], products: Any) -> Any:
    at = 0
    for i in range(len(deltas)):
        for j in range(i + 1):
            products = put(products, at, deltas[i] * deltas[j])
            at += 1
    return products


def _compiled_engine() -> ModuleType:
    """The compiled passes, or the tiled ones where Numba is missing."""
    try:
        from evomerge.methods import _compiled
    except ImportError:
        return _tiled
    return _compiled
