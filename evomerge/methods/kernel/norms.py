"""Norms of the deltas and their inner products, each a fact that no parameter changes."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods.kernel.entrywise import Numbers, put
from evomerge.methods.kernel.leaves import Uniforms
from evomerge.methods.kernel.operands import Operands, unit

GRID = 10_000  # densities have four decimals, so these are all that a search asks for


def extent(operands: Operands, index: int) -> float:
    """The largest magnitude of a delta."""
    compute = partial(_extent, operands, index)
    return operands.facts.get("extent", compute, of=operands.names[index])


def mass(operands: Operands, index: int) -> float:
    """The L1 norm of a delta."""
    compute = partial(_mass, operands, index)
    return operands.facts.get("mass", compute, of=operands.names[index])


def drawn_mass(operands: Operands, index: int, draws: object, probability: float) -> float | None:
    """The L1 norm of the entries of a delta whose draw is below ``probability``.

    None where only a pass over the tensor can tell: a probability off the grid, draws that were
    given, or facts that are not kept.
    """
    step = round(probability * GRID)
    on_grid = step / GRID == probability
    if not (isinstance(draws, Uniforms) and operands.facts.lasting and on_grid):
        return None
    compute = partial(_drawn_masses, operands, index, draws.key)
    table = operands.facts.get(("drawn mass", draws.key), compute, of=operands.names[index])
    return float(table[step])


def gram(operands: Operands) -> Tensor:
    """Inner products of the deltas, float64 [models, models]."""
    return operands.facts.get("gram", partial(_gram, operands))


def _extent(operands: Operands, index: int) -> float:
    return operands.passes.extent(operands.tensors[index], operands.origin)


def _mass(operands: Operands, index: int) -> float:
    return operands.one(index).sums(_magnitudes, limits=[extent(operands, index)])[0]


def _drawn_masses(operands: Operands, index: int, key: int) -> NDArray[np.float64]:
    """For each probability on the grid the norm of what is drawn [GRID + 1]."""
    step = unit(extent(operands, index))
    thresholds = (np.arange(GRID + 1) / GRID).astype(np.float32)
    tensor, origin = operands.tensors[index], operands.origin
    whole = operands.passes.drawn_masses(tensor, origin, key, thresholds, step)
    return np.concatenate([[0.0], np.cumsum(whole)[:GRID] * step])


def _gram(operands: Operands) -> Tensor:
    count = len(operands)
    pairs = [(i, j) for i in range(count) for j in range(i + 1)]
    extents = [extent(operands, index) for index in range(count)]
    limits = [extents[i] * extents[j] for i, j in pairs]
    products = torch.zeros(count, count, dtype=torch.float64)
    found = operands.sums(_products, [0.0] * len(pairs), limits=limits)
    for (i, j), product in zip(pairs, found, strict=True):
        products[i, j] = products[j, i] = product
    return products


def _magnitudes(deltas: Numbers) -> Numbers:
    return (abs(deltas[0]),)


def _products(deltas: Numbers, products: Numbers) -> Numbers:
    at = 0
    for i in range(len(deltas)):
        for j in range(i + 1):
            products = put(products, at, deltas[i] * deltas[j])
            at += 1
    return products
