"""Optimizers: what proposes genomes.

An optimizer is one file with one subclass of ``Optimizer``; a plugin is the same class under an
entry point of group ``evomerge.optimizers``. Names resolve without importing any optimizer library.
A subclass proves itself with ``evomerge.testing.optimizers.OptimizerContract``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from evomerge.errors import ConfigError, InputError, did_you_mean
from evomerge.params import Dim, Genome, Parameter, Value
from evomerge.registry import OPTIMIZERS


class Optimizer(ABC):
    """Proposes genomes and learns from their scores.

    Two rules make a resumed search repeat the interrupted one from its journal alone. ``ask`` is a
    pure function of the tells so far, the seed, the batch and the count: it changes nothing, and
    its draws are keyed by ``seeds.generator(seed, "ask", batch)``. ``tell`` takes nothing but what
    the journal holds. So replaying the tells restores the optimizer.

    Batches are told in the order of their numbers, each once, without gaps. With a lag, later
    batches were asked before: a told point need not come from the newest distribution, nor (known
    recipes) from this optimizer at all.

    Args:
        dims: the axes of the genomes, at least one.
        seed: the run's seed.
        population: the size of a batch; None for the algorithm's own, which is larger than the
            textbook value because scores are noisy.
        options: values for ``OPTIONS``, by name; ``make`` has validated them.
    """

    name: ClassVar[str]
    OPTIONS: ClassVar[tuple[Parameter, ...]] = ()

    def __init__(
        self,
        dims: Sequence[Dim],
        *,
        seed: int,
        population: int | None = None,
        **options: Value,
    ) -> None:
        self.dims = tuple(dims)
        self.seed = seed
        self.population = population or self.default_population(len(self.dims))
        self.options = {option.name: option.default for option in self.OPTIONS} | options

    @classmethod
    @abstractmethod
    def default_population(cls, dimensions: int) -> int:
        """The size of a batch in a space of ``dimensions`` axes."""

    @abstractmethod
    def tell(self, genomes: Sequence[Genome], scores: Sequence[float | None]) -> None:
        """Learn from one batch, in candidate order.

        ``scores`` are maximised and never NaN; None is a failed candidate: it ranks last and is
        never an elite. The known recipes of generation 0 are told before any other batch, in any
        number: a warm start.

        Raises:
            ValueError: lengths differ, or a score is not finite.
        """

    @abstractmethod
    def ask(self, count: int, batch: int) -> list[Genome]:
        """``count`` canonical genomes for batch number ``batch``; pure."""

    @abstractmethod
    def recommend(self) -> Genome | None:
        """The genome this optimizer believes in; None before any success was told."""


def rank(genomes: Sequence[Genome], scores: Sequence[float | None]) -> list[int]:
    """Indices of a told batch from best to worst: failures last, ties in candidate order.

    Raises:
        ValueError: lengths differ, or a score is not finite.
    """
    if len(genomes) != len(scores):
        raise ValueError(f"{len(genomes)} genomes told with {len(scores)} scores")
    for score in scores:
        if score is not None and not math.isfinite(score):
            raise ValueError(f"score {score} is not finite; a failed candidate is told as None")
    costs = [math.inf if score is None else -score for score in scores]
    return sorted(range(len(costs)), key=costs.__getitem__)


def cell(dim: Dim, gene: float) -> int:
    """The number of the cell that ``gene`` falls in, on an integer or categorical axis."""
    return min(max(int(gene * dim.size), 0), dim.size - 1)


def centre(dim: Dim, number: int) -> float:
    """The gene at the centre of a cell."""
    return (number + 0.5) / dim.size


def canonical(dims: Sequence[Dim], genes: Sequence[float]) -> Genome:
    """``genes`` as an optimizer returns them: inside [0, 1], cells by their centres.

    Real genes are rounded to 9 decimals, far below what a recipe resolves, so that last-bit
    differences between two machines' linear algebra do not pass into the trajectory.
    """
    return tuple(
        centre(dim, cell(dim, gene)) if dim.size else round(min(max(float(gene), 0.0), 1.0), 9)
        for dim, gene in zip(dims, genes, strict=True)
    )


def get(name: str) -> type[Optimizer]:
    """The class named ``name``.

    Raises:
        InputError: no optimizer has this name, or its library or plugin cannot be imported.
    """
    found = OPTIMIZERS.get(name)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        where = OPTIMIZERS.where(name)
        raise InputError(f"optimizer {name!r} ({where}) is not an evomerge Optimizer class")
    return found


def problems(name: str, options: Mapping[str, object]) -> dict[str, str]:
    """What is wrong with ``options`` of optimizer ``name``: option -> message.

    Raises:
        InputError: as ``get``.
    """
    declared = {option.name: option.domain for option in get(name).OPTIONS}
    found: dict[str, str] = {}
    for key, value in options.items():
        if key not in declared:
            known = f"known here: {', '.join(declared)}" if declared else "it has none"
            found[key] = f"unknown option of {name!r}{did_you_mean(key, declared)}; {known}"
        elif problem := declared[key].problem(value):
            found[key] = problem
    return found


def make(
    name: str,
    dims: Sequence[Dim],
    *,
    seed: int,
    population: int | None = None,
    options: Mapping[str, Value] | None = None,
) -> Optimizer:
    """The optimizer that ``run.yaml``'s ``optimizer`` section describes.

    Raises:
        InputError: unknown name, nothing to search, or (ConfigError) wrong options, all at once.
    """
    options = options or {}
    kind = get(name)
    found = [f"optimizer: {key}: {message}" for key, message in problems(name, options).items()]
    if population is not None and (type(population) is not int or population < 2):
        found.append(
            f"optimizer: population: expected a whole number of at least 2, found {population!r}"
        )
    if not dims:
        found.append("space: nothing varies; expected at least one parameter with a range")
    if found:
        raise ConfigError(found)
    return kind(dims, seed=seed, population=population, **options)
