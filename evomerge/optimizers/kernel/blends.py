"""Blends: weighted averages of a pool of sources, and what was told of them.

Algorithms that choose among sources and average them are plans: what was told decides the next blends that
they want scored. Scores of different batches are of different items; so a blend and its rival are compared
in the batch that first held the blend, for which the rival is asked again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from evomerge.errors import InputError
from evomerge.optimizers import Ask, Optimizer, Problem, Told, canonical
from evomerge.params import Genome, Value

Blend = tuple[float, ...]  # a weight a source, which sum to 1
DIGITS = 9  # of a weight: equal blends must be equal tuples


def even(size: int, members: Sequence[int]) -> Blend:
    """The plain average of some of ``size`` sources."""
    return tuple(round((n in members) / len(members), DIGITS) for n in range(size))


def between(one: Blend, other: Blend, share: float) -> Blend:
    """``share`` of ``one``, the rest of ``other``."""
    pairs = zip(one, other, strict=True)
    return tuple(round(share * a + (1 - share) * b, DIGITS) for a, b in pairs)


class BlendPlan(Optimizer):
    """An optimizer that plans blends. A subclass says what its plan wants next, and whom it believes in.

    A batch holds the plan's rival, to be compared with, then what the plan wants, likely or sure; where that
    is less than the batch, the best blends are asked again, which makes their scores surer.

    Raises:
        InputError: there are less than two sources, or the space does not hold their averages.
    """

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._count = len(problem.sources)
        self._told: dict[Genome, dict[int, Told]] = {}  # genome -> batch -> what came of it
        self._genomes: dict[Blend, Genome] = {}
        if self._count < 2:
            raise InputError(
                f"{self.name} averages sources; expected at least two, found {self._count}"
            )
        for blend in (*self.sources, even(self._count, range(self._count))):
            self.genome(blend)

    @property
    def sources(self) -> list[Blend]:
        """Each source alone."""
        return [even(self._count, [number]) for number in range(self._count)]

    # -- the plan -------------------------------------------------------------------------------

    @abstractmethod
    def plan(self) -> tuple[Blend | None, Iterator[Blend]]:
        """Whom the next blends are compared with, if anyone, and these, the most urgent first.

        It follows from what was told. Blends that were told already may be among the wanted.
        """

    def believed(self) -> Blend | None:
        """The plan's answer so far; None if it has none that is sure to be better than the best told."""
        return self.plan()[0]

    def first(self, blend: Blend) -> Told | None:
        """What was told of a blend first; None if nothing was."""
        known = self._known(blend)
        return known[min(known)] if known else None

    def by_merit(self, blends: Iterable[Blend]) -> list[Blend]:
        """Those that succeeded, best first by what was told first: later news changes no decision."""
        known = [(self.first(blend), blend) for blend in blends]
        found = [(told.merit, blend) for told, blend in known if told and told.score is not None]
        return [blend for _, blend in sorted(found, key=lambda pair: pair[0])]

    def helps(self, blend: Blend, rival: Blend) -> bool:
        """True if a blend is no worse than its rival, by the batch that first held it."""
        known, others = self._known(blend), self._known(rival)
        batch = min(known)
        before = [number for number in others if number <= batch]
        told = others[max(before) if before else min(others)]
        return known[batch].score is not None and known[batch].merit <= told.merit

    # -- the optimizer --------------------------------------------------------------------------

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        for each in told:
            genome = canonical(self.dims, each.genome)
            self._told.setdefault(genome, {}).setdefault(batch, each)

    def ask(self, count: int, batch: int) -> list[Ask]:
        rival, wanted = self.plan()
        again = [self.genome(rival)] if rival is not None and count > 1 else []
        chosen = dict.fromkeys(again)
        for blend in wanted:
            if len(chosen) == count:
                break
            if not self._known(blend):
                chosen.setdefault(self.genome(blend))
        for genome in self._ranked():
            if len(chosen) == count:
                break
            chosen.setdefault(genome)
        asked = list(chosen) or [self.genome(self.sources[0])]
        return [Ask(asked[number % len(asked)]) for number in range(count)]

    def recommend(self, count: int) -> list[Genome]:
        best = self.believed()
        believed = [] if best is None else [self.genome(best)]
        return list(dict.fromkeys((*believed, *self._ranked())))[:count]

    def awaits(self, blends: Iterable[Blend]) -> bool:
        """True if nothing was told of one of them."""
        return any(not self._known(blend) for blend in blends)

    def genome(self, blend: Blend) -> Genome:
        """Of a blend.

        Raises:
            InputError: the space does not hold it.
        """
        if blend not in self._genomes:
            weights = dict(zip(self.problem.sources, blend, strict=True))
            found = self.problem.blend(weights) if self.problem.blend else None
            if found is None:
                shown = ", ".join(
                    f"{name} {weight:g}" for name, weight in weights.items() if weight
                )
                raise InputError(
                    f"{self.name} averages the sources, but the space does not hold the average with weights "
                    f"{shown}; expected methods: [linear] with weights: simplex, or linear or "
                    "task_arithmetic with weights from 0 to 1"
                )
            self._genomes[blend] = canonical(self.dims, found)
        return self._genomes[blend]

    def _known(self, blend: Blend) -> dict[int, Told]:
        return self._told.get(self.genome(blend), {})

    def _ranked(self) -> list[Genome]:
        """All that succeeded, best first by what was told last."""
        newest = [known[max(known)] for known in self._told.values()]
        found = [told for told in newest if told.score is not None]
        genomes = [
            canonical(self.dims, told.genome) for told in sorted(found, key=lambda t: t.merit)
        ]
        return list(dict.fromkeys(genomes))


def kinship(problem: Problem, one: Blend, others: Sequence[Blend]) -> list[float]:
    """The cosine of a blend's task vector with each of the others'; 0 with one that changes nothing."""
    names = problem.sources
    products = np.array([[problem.kinship[m, n] for n in names] for m in names])
    ours, theirs = np.array(one), np.array(others).reshape(-1, len(names))
    along = theirs @ products
    norms = np.sqrt(np.maximum(0.0, (ours @ products @ ours) * (along * theirs).sum(1)))
    cosines = np.where(norms > 0, along @ ours / np.where(norms > 0, norms, 1.0), 0.0)
    return [round(float(cosine), DIGITS) for cosine in cosines]
