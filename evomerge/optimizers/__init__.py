"""Optimizers: what proposes genomes.

An optimizer is one file with one subclass of ``Optimizer``; a plugin is the same class under an
entry point of group ``evomerge.optimizers``. Names resolve without importing any optimizer library.
A subclass proves itself with ``evomerge.testing.optimizers.OptimizerContract``.

    optimizer = make("cma", Problem(dims, ("th", "ifeval")), seed=0)
    optimizer.tell(1, 0, [Told(genome, 0.4, (0.3, 0.5), (0.01, 0.02))])   # known recipes
    asks = optimizer.ask(14, 2)                                          # of batch 2
    optimizer.tell(2, 2, [Told(ask.genome, ...) for ask in asks])        # which had seen two batches
    optimizer.recommend(1)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from evomerge.errors import ConfigError, InputError, did_you_mean
from evomerge.params import Dim, Genome, Level, Mixture, Parameter, Value
from evomerge.registry import OPTIMIZERS


@dataclass(frozen=True)
class Measure:
    """A behaviour that an archive is to cover, in ``cells`` of equal width from ``low`` to ``high``."""

    name: str
    low: float
    high: float
    cells: int

    def cell(self, value: float) -> int:
        """The number of the cell that ``value`` falls in; what lies beyond an end falls in the last there."""
        share = (value - self.low) / (self.high - self.low)
        return min(max(int(share * self.cells), 0), self.cells - 1)


@dataclass(frozen=True)
class Problem:
    """What is to be optimised.

    Attributes:
        dims: the axes of the genomes, at least one.
        objectives: names of those that count, in the order of ``Told.values``.
        measures: in the order of ``Told.measures``.
        sources: names of the models that are merged, in order.
        blend: the genome of the sources' average with these weights, one a source; None if the space holds
            none. None in its place where nothing is known of sources.
        kinship: inner product of the task vectors of each pair of sources, of each with itself, too, where
            the optimizer's class wants it (``KINSHIP``); in units of their entries, up to one factor.
        smooth: for each axis, whether slopes exist along it; empty where there are none at all.
        levels: of detail, coarse to fine; the last has every axis by itself. Empty is that one alone.
        mixtures: axes that weigh sources against each other, place by place.
    """

    dims: tuple[Dim, ...]
    objectives: tuple[str, ...] = ()
    measures: tuple[Measure, ...] = ()
    sources: tuple[str, ...] = ()
    blend: Callable[[Mapping[str, float]], Genome | None] | None = field(
        default=None, compare=False
    )
    kinship: Mapping[tuple[str, str], float] = field(default_factory=dict, compare=False)
    smooth: tuple[bool, ...] = ()
    levels: tuple[Level, ...] = ()
    mixtures: tuple[Mixture, ...] = ()


@dataclass(frozen=True)
class Ask:
    """A genome that is to be evaluated. The asks of a batch agree in what they want.

    Attributes:
        genome: canonical.
        slope: its slope is wanted besides its score.
        fresh: it is to be compared with the first of its batch, on search items by which no slope was taken.
        origin: where it comes from, in words; the optimizer's name where it says nothing.
    """

    genome: Genome
    slope: bool = False
    fresh: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Told:
    """What came of a genome. All numbers are finite.

    Attributes:
        genome: as it was asked, or of a known recipe.
        score: combined, maximised; None: it failed, ranks last and is never an elite.
        values: of the objectives, maximised, in yardstick units (``suite.objectives.yardsticks``):
            ``[objectives]``, empty if it failed.
        errors: standard errors of the values; 0 is exact, None is unknown.
        violation: by how much floors are missed, relative to them; 0 is feasible.
        measures: ``[measures]``.
        answers: objective -> search item -> what the answer is worth, from 0 to 1, of all that the candidate
            had answered when its batch was complete; empty unless the optimizer's class wants it
            (``ANSWERS``).
        slope: the derivative of the score, each objective by a bounded stand-in, by every gene, ``[dims]``,
            where it was asked for.
        slopes: those of the values, ``[objectives][dims]``.
        lead: by how much its score leads that of the first of its batch on the same fresh items, and the
            standard error of that; None where that was not asked for, or is not known.
    """

    genome: Genome
    score: float | None
    values: tuple[float, ...] = ()
    errors: tuple[float | None, ...] = ()
    violation: float = 0.0
    measures: tuple[float, ...] = ()
    answers: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    slope: tuple[float, ...] | None = None
    slopes: tuple[tuple[float, ...], ...] = ()
    lead: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        known = [self.score, *self.errors, self.violation]
        numbers = [number for number in known if number is not None]
        numbers += [*self.values, *self.measures, *(self.slope or ())]
        numbers += [number for slope in self.slopes for number in slope]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{self} is not finite; a failed candidate has the score None")

    @property
    def merit(self) -> tuple[bool, bool, float]:
        """Sort key, the smallest first: feasible ones by score, others by violation, then failures."""
        if self.score is None:
            return (True, True, 0.0)
        if self.violation > 0:
            return (False, True, self.violation)
        return (False, False, -self.score)


class Optimizer(ABC):
    """Proposes genomes and learns from their scores.

    Two rules make a resumed search repeat the interrupted one from its journal alone. ``ask`` is a
    pure function of the tells so far, the seed, the batch and the count: it changes nothing, and
    its draws are keyed by ``seeds.generator(seed, "ask", batch)``. ``tell`` takes nothing but what
    the journal holds. So replaying the tells restores the optimizer, and asking again what a batch
    asked, of the tells that it had seen, gives the same genomes.

    Batches are told in the order of their numbers, each once; some are never told. With a lag, later
    batches were asked before: a told point need not come from the newest distribution, nor (known
    recipes) from this optimizer at all.

    Args:
        problem: what is optimised.
        seed: the run's seed.
        population: the size of a batch; None for the algorithm's own, which is larger than the
            textbook value because scores are noisy.
        options: values for ``OPTIONS``, by name; ``make`` has validated them.
    """

    name: ClassVar[str]
    OPTIONS: ClassVar[tuple[Parameter, ...]] = ()
    ANSWERS: ClassVar[bool] = False  # True: it wants ``Told.answers``
    KINSHIP: ClassVar[bool] = False  # True: it wants ``Problem.kinship``
    FEWER: ClassVar[bool] = False  # whether an ask may return fewer genomes than were asked for
    SLOPES: ClassVar[bool] = False  # whether it can do nothing without slopes
    DESCENDS: ClassVar[bool] = False  # whether it takes them where there are some
    observed: int = (
        6  # so many of the best by search score join what it recommends on the shortlist
    )

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        population: int | None = None,
        **options: Value,
    ) -> None:
        self.problem, self.dims = problem, problem.dims
        self.seed = seed
        self.population = population or self.default_population(len(self.dims))
        self.options = {option.name: option.default for option in self.OPTIONS} | options

    @classmethod
    @abstractmethod
    def default_population(cls, dimensions: int) -> int:
        """The size of a batch in a space of ``dimensions`` axes."""

    @abstractmethod
    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        """Learn from one batch, in candidate order.

        The known recipes of generation 0 are told before any other batch, in any number: a warm start.

        Args:
            batch: its number.
            seen: when it was asked, the batches with numbers below this had been told; 0 for known
                recipes, which nobody asked for.
            told: of its candidates, those that the space holds.
        """

    @abstractmethod
    def ask(self, count: int, batch: int) -> list[Ask]:
        """``count`` canonical genomes for batch number ``batch``; pure. Fewer, where ``FEWER`` says so."""

    @property
    def decisions(self) -> Sequence[str]:
        """What was decided so far and why, in words, in order; later tells only add to it."""
        return ()

    @abstractmethod
    def recommend(self, count: int) -> list[Genome]:
        """The genomes this optimizer believes in, at most ``count``; none before any success was told.

        Best first; with several objectives they may be spread over the front.
        """


def rank(told: Sequence[Told]) -> list[int]:
    """Indices of a told batch from best to worst; ties in candidate order. See ``Told.merit``."""
    return sorted(range(len(told)), key=lambda index: told[index].merit)


def cell(dim: Dim, gene: float) -> int:
    """The number of the cell that ``gene`` falls in, on an integer or categorical axis."""
    return min(max(int(gene * dim.size), 0), dim.size - 1)


def centre(dim: Dim, number: int) -> float:
    """The gene at the centre of a cell."""
    return (number + 0.5) / dim.size


def mean(dims: Sequence[Dim], ranked: Sequence[Told]) -> Genome:
    """The mean of points, best first, by CMA-ES's weights; of a categorical axis the heaviest option.

    Of noisy scores the best is one that had luck; luck averages out.
    """
    weights = [math.log(len(ranked) + 0.5) - math.log(place) for place in range(1, len(ranked) + 1)]
    genes = []
    for axis, dim in enumerate(dims):
        column = [told.genome[axis] for told in ranked]
        if dim.kind == "categorical":
            heaviest = [0.0] * dim.size
            for weight, gene in zip(weights, column, strict=True):
                heaviest[cell(dim, gene)] += weight
            genes.append(centre(dim, heaviest.index(max(heaviest))))
        else:
            total = sum(weight * gene for weight, gene in zip(weights, column, strict=True))
            genes.append(total / sum(weights))
    return canonical(dims, genes)


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
    problem: Problem,
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
    if not problem.dims:
        found.append("space: nothing varies; expected at least one parameter with a range")
    if found:
        raise ConfigError(found)
    return kind(problem, seed=seed, population=population, **options)
