"""Top-k greedy merging with model kinship: the best are merged with each other, and the best with a stranger.

Merging the best again and again ends among near copies. A merge of the best with the model least akin to it
leads out of there.

Paper: Hu et al., "Exploring model kinship for merging large language models",
    https://arxiv.org/abs/2410.12613.
Deviations: pairs are averaged, not merged by slerp, so a generation's children are again averages of the
    sources and their kinship follows from that of the sources. Kinship is the cosine alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

from evomerge.optimizers import Problem, Told
from evomerge.optimizers.kernel.blends import Blend, BlendPlan, between, kinship
from evomerge.params import Integer, Parameter, Real, Shared, Value


class Kinship(BlendPlan):
    """A generation: each pair of the ``top`` best so far, and the best with the one least akin to it.

    Pairs that are more alike than ``saturation`` are not merged, unless both are sources: nothing new would
    come of them. Recommends the best model.
    """

    name: ClassVar[str] = "kinship"
    KINSHIP: ClassVar[bool] = True
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter("top", Shared(Integer(2, 10, default=3)), "models that are merged in pairs"),
        Parameter(
            "saturation",
            Shared(Real(0.5, 1, default=0.98, valid=(-1, 1))),
            "cosine of task vectors above which two models are as good as one",
        ),
    )

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 5  # the best again, three pairs, the stranger

    def __init__(
        self, problem: Problem, *, seed: int, population: int | None = None, **options: Value
    ) -> None:
        super().__init__(problem, seed=seed, population=population, **options)
        self._models = self.sources  # of all generations, the newest last

    def tell(self, batch: int, seen: int, told: Sequence[Told]) -> None:
        super().tell(batch, seen, told)
        while not self.awaits(self._models) and (born := self._children()):
            self._models += born

    def plan(self) -> tuple[Blend | None, Iterator[Blend]]:
        order = self.by_merit(self._models)
        return (order[0] if order else None), iter(self._models)

    def _children(self) -> list[Blend]:
        """The next generation, which may be empty."""
        order = self.by_merit(self._models)
        if not order:
            return []
        best = order[0]
        pairs = list(itertools.combinations(order[: int(str(self.options["top"]))], 2))
        known = {self.genome(model) for model in self._models}
        akin = kinship(self.problem, best, order[1:])
        for _, stranger in sorted(zip(akin, order[1:], strict=True), key=lambda pair: pair[0]):
            if self.genome(between(best, stranger, 0.5)) not in known:
                pairs.append((best, stranger))
                break
        merged = [between(one, other, 0.5) for one, other in pairs if self._worthwhile(one, other)]
        born = {self.genome(child): child for child in reversed(merged)}
        return [child for genome, child in reversed(born.items()) if genome not in known]

    def _worthwhile(self, one: Blend, other: Blend) -> bool:
        if max(one) == max(other) == 1:
            return True
        return kinship(self.problem, one, [other])[0] <= float(str(self.options["saturation"]))
