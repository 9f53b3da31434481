"""Children of two genomes: simulated binary crossover and polynomial mutation, cells on other axes.

Papers: Deb & Agrawal, "Simulated Binary Crossover for Continuous Search Space", Complex Systems 9,
1995; Deb & Goyal, "A Combined Genetic Adaptive Search (GeneAS) for Engineering Design", 1996.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers import canonical, cell, centre
from evomerge.params import Dim, Genome

CROSSED = 0.9  # of matings; the other children are mutated copies
ETA_CROSSOVER = 15.0  # the larger, the nearer children are to a parent
ETA_MUTATION = 20.0

Genes = NDArray[np.float64]  # [dims], in [0, 1]


def child(
    dims: Sequence[Dim], one: Genome, other: Genome, generator: np.random.Generator
) -> Genome:
    """A canonical child of canonical parents.

    Each axis is crossed with probability 1/2 and mutated with probability 1/dims; a child that would
    be a copy of ``one`` is mutated on some axis. An integer axis is crossed and mutated as a real one,
    and a mutation that would stay in its cell goes to the next one; of a categorical axis a crossing takes the
    other parent's option, a mutation any other.
    """
    size = len(dims)
    a, b = np.array(one), np.array(other)
    mated = generator.random() < CROSSED
    crossed = (generator.random(size) < 0.5) & mated & (a != b)
    near, far = crossover(a, b, generator.random(size))
    exchanged = generator.random(size) < 0.5
    categorical = np.array([dim.kind == "categorical" for dim in dims])
    bred = np.where(categorical, b, np.where(exchanged, far, near))
    genes = np.where(crossed, bred, a)
    mutated = generator.random(size) < 1 / size
    moved, options = mutation(genes, generator.random(size)), generator.random(size)
    free = [axis for axis, dim in enumerate(dims) if dim.size != 1] or [0]
    spare = free[generator.integers(len(free))]

    def mutate(axis: int) -> None:
        genes[axis] = _mutant(dims[axis], genes[axis], moved[axis], options[axis])

    for axis in np.flatnonzero(mutated).tolist():
        mutate(axis)
    if canonical(dims, genes.tolist()) == one:
        mutate(spare)
    return canonical(dims, genes.tolist())


def _mutant(dim: Dim, gene: float, moved: float, uniform: float) -> float:
    if not dim.size:
        return moved
    now = cell(dim, gene)
    if dim.size == 1:
        return gene
    if dim.kind == "categorical":
        others = [option for option in range(dim.size) if option != now]
        return centre(dim, others[int(uniform * len(others))])
    if (there := cell(dim, moved)) != now:
        return centre(dim, there)
    step = now + (1 if moved > gene else -1)
    return centre(dim, step if 0 <= step < dim.size else 2 * now - step)


def crossover(
    one: Genes, other: Genes, uniform: Genes, eta: float = ETA_CROSSOVER
) -> tuple[Genes, Genes]:
    """Simulated binary crossover in [0, 1]: the child near ``one`` and the child near ``other``.

    c = (y1 + y2 -+ beta (y2 - y1)) / 2; beta has density ~ beta^eta below 1 and ~ beta^-(eta+2) above,
    cut where the child would leave [0, 1].
    """
    low, high = np.minimum(one, other), np.maximum(one, other)
    gap = np.maximum(high - low, 1e-14)

    def beta(room: Genes) -> Genes:
        alpha = 2 - (1 + 2 * room / gap) ** -(eta + 1)
        inner = np.where(uniform <= 1 / alpha, uniform * alpha, 1 / (2 - uniform * alpha))
        return np.asarray(inner ** (1 / (eta + 1)))

    below = (low + high - beta(low) * gap) / 2
    above = (low + high + beta(1 - high) * gap) / 2
    first = one <= other
    near, far = np.where(first, below, above), np.where(first, above, below)
    return np.clip(near, 0, 1), np.clip(far, 0, 1)


def mutation(genes: Genes, uniform: Genes, eta: float = ETA_MUTATION) -> Genes:
    """Polynomial mutation in [0, 1]: a step with density ~ (1 - |step|)^eta, cut at the bounds."""
    down = (2 * uniform + (1 - 2 * uniform) * (1 - genes) ** (eta + 1)) ** (1 / (eta + 1)) - 1
    up = 1 - (2 * (1 - uniform) + (2 * uniform - 1) * genes ** (eta + 1)) ** (1 / (eta + 1))
    return np.clip(genes + np.where(uniform <= 0.5, down, up), 0, 1)
