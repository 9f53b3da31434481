"""CMA-ES on classes of axes around a genome: axes of one class move together, by the same amount."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evomerge.optimizers import Ask, Problem, Told, canonical
from evomerge.optimizers.cma import CMA
from evomerge.params import Dim, Genome


class Reduced:
    """Genomes ``centre + reach (reduced - 1/2)`` along real axes; other axes are searched as they are.

    Args:
        dims: of the whole genomes.
        classes: the class of each axis; those of one class are of one kind.
        held: for each axis, whether it stays where ``centre`` has it.
        centre: the best known genome; the first distribution lies around it.
        score: of the centre; any number will do.
        reach: how wide a reduced axis is, as a part of each range.
        sigma: of the first batch, as a part of each range.
        seed, population: of the strategy.
    """

    def __init__(
        self,
        dims: Sequence[Dim],
        classes: Sequence[int],
        held: Sequence[bool],
        centre: Genome,
        *,
        reach: float,
        sigma: float,
        seed: int,
        population: int | None,
    ) -> None:
        self._dims, self._centre, self._reach = dims, centre, reach
        free = [number for number, stays in zip(classes, held, strict=True) if not stays]
        order = {number: at for at, number in enumerate(dict.fromkeys(free))}
        self._at = [
            None if stays else order[number] for number, stays in zip(classes, held, strict=True)
        ]
        axes: dict[int, Dim] = {}
        for at, dim in zip(self._at, dims, strict=True):
            if at is not None:
                axes.setdefault(at, dim)
        self.dims = tuple(axes.values())
        self.inner = CMA(
            Problem(self.dims), seed=seed, population=population, sigma0=max(sigma / reach, 1e-3)
        )
        middle = [0.5] * len(self.dims)
        for at, dim, gene in zip(self._at, dims, centre, strict=True):
            if at is not None and dim.size:
                middle[at] = gene
        self.inner.tell(0, 0, [Told(canonical(self.dims, middle), 0.0)])

    def whole(self, genome: Genome) -> Genome:
        """The genome that a reduced one stands for."""
        found = list(self._centre)
        for axis, (at, dim) in enumerate(zip(self._at, self._dims, strict=True)):
            if at is not None:
                found[axis] = genome[at]
                if not dim.size:
                    found[axis] = self._centre[axis] + self._reach * (genome[at] - 0.5)
        return canonical(self._dims, found)

    def ask(self, count: int, batch: int) -> list[Ask]:
        """As ``Optimizer.ask``, of whole genomes; pure."""
        return [replace(ask, genome=self.whole(ask.genome)) for ask in self.inner.ask(count, batch)]

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        """Of a batch that was asked here; what was not is left out."""
        drawn = self.inner.again(max(len(told), self.inner.population), batch, seen)
        drawn += self.inner.compared()
        reduced = {self.whole(genome): genome for genome in reversed(drawn)}
        known = [
            replace(each, genome=reduced[each.genome], slope=None, slopes=())
            for each in told
            if each.genome in reduced
        ]
        if known:
            self.inner.tell(batch, seen, known)

    def mean(self) -> Genome:
        """Of the distribution, as a whole genome."""
        return self.whole(self.inner.mean)

    def bettered(self) -> list[Genome]:
        """What led the centre in a comparison, the last of it, as a whole genome."""
        found = self.whole(self.inner.compared()[0])
        return [found] if found != canonical(self._dims, self._centre) else []
