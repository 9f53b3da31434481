"""Greedy soup: the sources from best to worst, each added to the plain average if that helps.

Paper: Wortsman et al., "Model soups", ICML 2022, https://arxiv.org/abs/2203.05482 (recipe 1).
Deviations: of a batch, the steps after the next are asked for every way that the next may end, so a batch of
    seven takes up to three steps at once. Scores are of samples, so a step may be taken by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from evomerge.optimizers.kernel.blends import Blend, BlendPlan, even


class GreedySoup(BlendPlan):
    """Asks for each source alone, then for soups; recommends the soup.

        soup <- soup + i    if score(average(soup + i)) >= score(average(soup))

    Whatever is left of the budget asks again for the soup and the next best blends.
    """

    name: ClassVar[str] = "greedy_soup"

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 8  # the soup, and three steps whichever way they end

    def plan(self) -> tuple[Blend | None, Iterator[Blend]]:
        order = self.by_merit(self.sources)
        if self.awaits(self.sources) or not order:
            return None, iter(self.sources)
        ingredients = [source.index(1.0) for source in order]
        soup, rest = ingredients[:1], ingredients[1:]
        while rest:
            trial = self._average([*soup, rest[0]])
            if self.first(trial) is None:
                break
            if self.helps(trial, self._average(soup)):
                soup = [*soup, rest[0]]
            rest = rest[1:]
        return self._average(soup), self._ahead(soup, rest)

    def _ahead(self, soup: Sequence[int], rest: Sequence[int]) -> Iterator[Blend]:
        """What the next steps may come to, the nearest first."""
        soups = [list(soup)]
        for ingredient in rest:
            grown = [[*each, ingredient] for each in soups]
            yield from map(self._average, grown)
            soups = (soups + grown)[: 1 << 10]  # far more than a batch holds

    def _average(self, soup: Sequence[int]) -> Blend:
        return even(self._count, soup)
