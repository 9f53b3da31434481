"""Operands: the tensors that one merge works on, and the passes over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge import seeds
from evomerge.methods.kernel import passes, tiled
from evomerge.methods.kernel.draws import uniforms
from evomerge.methods.kernel.entrywise import Entrywise, Number, Numbers, Pass
from evomerge.methods.kernel.facts import Facts
from evomerge.methods.kernel.leaves import Argument, Columns, Entries, Rows, Uniforms
from evomerge.methods.kernel.weights import fractions


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
        rows: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.names = tuple(models)
        self.shape = next(iter(models.values())).shape
        self.tensors = tuple(_matrix(tensor) for tensor in models.values())
        self.base = None if base is None else _matrix(base.to(self.device))
        self.facts = facts
        self._draw_key, self._noise, self._rows = draw_key, noise, rows or {}

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

    def one(self, index: int) -> Operands:
        """The operands of one source alone."""
        model = {self.names[index]: self.tensors[index]}
        return Operands(model, self.base, self.facts, self._draw_key)

    @property
    def origin(self) -> Tensor:
        """What deltas are taken from: the base, or zeros."""
        return torch.zeros_like(self.tensors[0]) if self.base is None else self.base

    def uniforms(self) -> list[Uniforms | Entries]:
        """Per model, the draws that decide which entries it drops."""
        if self._noise is not None:
            return [Entries(self._noise[name].float()) for name in self.names]
        return [Uniforms(self._draw_key(name)) for name in self.names]

    def draws(self, index: int, draw: int, count: int) -> Tensor:
        """``count`` uniform numbers of one model for this tensor, others for every ``draw``."""
        key = seeds.key(self._draw_key(self.names[index]), "draw", draw)
        return uniforms(key, 0, count, self.device)

    def weights(self, weight: Tensor) -> list[float | Rows | Columns]:
        """The models' weights [models] for an entry function, row by row or column by column where the recipe
        says so; of a tensor of one axis, entry by entry."""
        found: list[float | Rows | Columns] = []
        for name, value in zip(self.names, fractions(weight), strict=True):
            factors = self._rows.get(name)
            if factors is None:
                found.append(value)
                continue
            product = (factors.double() * value).float()  # rounded once, whatever the device
            by_column = len(self.shape) < 2 or factors.ndim == 2
            found.append(Columns(product.flatten()) if by_column else Rows(product))
        return found

    # -- passes over memory ----------------------------------------------------------------------

    def merge(
        self, merge: Entrywise, out: Tensor | None = None, scale: float = 1.0
    ) -> tuple[Tensor, bool]:
        """Run an entrywise merge into ``out``; the result, and whether it is finite."""
        if out is None:
            out = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        work = self._work(merge, scale)
        finite = self.passes.merge(work, out.view(self.rows, self.columns), scale=scale)
        return out, finite

    def entries(self, merge: Entrywise, at: Tensor, scale: float = 1.0) -> Tensor:
        """What ``merge`` gives at the flat indices ``at`` [n], float32 [n]."""
        return tiled.entries(self._work(merge, scale), at, scale=scale)

    def _work(self, merge: Entrywise, scale: float) -> Pass:
        base = self.base if merge.of == "deltas" else None
        if base is None and scale != 1.0:
            raise NotImplementedError("a merge of tensors has no delta to scale")
        return Pass(merge.entry, merge.arguments, self.tensors, base)

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
        units = [unit(limit) for limit in limits]
        found = self.passes.sums(Pass(entry, arguments, self.tensors, self.base), units)
        return [total * unit for total, unit in zip(found, units, strict=True)]

    def delta(self, index: int) -> Tensor:
        """One source minus base, float32 [rows, columns], a fresh tensor."""
        return self.one(index).values(_value)

    def values(self, entry: Callable[..., Any], *arguments: Argument) -> Tensor:
        """What ``entry`` (of the deltas) returns for each entry, float32 [rows, columns]."""
        out = torch.empty(self.rows, self.columns, dtype=torch.float32, device=self.device)
        self.passes.merge(Pass(entry, arguments, self.tensors, self.base), out, add=False)
        return out

    @property
    def passes(self) -> passes.Passes:
        """What runs over these tensors."""
        return passes.on(self.device)


def unit(limit: float) -> float:
    """A power of two of which no value up to ``limit`` has more than 2**30."""
    return 2.0 ** (math.frexp(max(limit, 2.0**-90))[1] - 30)


def _matrix(tensor: Tensor) -> Tensor:
    rows = tensor.shape[0] if tensor.ndim > 1 else 1
    columns = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else tensor.numel()
    if tensor.dtype not in (torch.bfloat16, torch.float32):
        tensor = tensor.float()  # once, rather than in every pass
    return tensor.reshape(rows, columns).contiguous()


def _value(deltas: Numbers) -> Number:
    return deltas[0]
