"""Model-GLUE's greedy adding: sources that are alike are merged among themselves, then what came of them.

Paper: Zhao et al., "Model-GLUE: democratized LLM scaling for a large model zoo in the wild", NeurIPS 2024,
    https://arxiv.org/abs/2410.05357 (clustering, and the heuristic with a grid of coefficients).
Deviations: sources of one base are alike in their weights, so clusters are of task vectors: sources linked
    by a cosine of at least ``alike``. The merged clusters are added to each other in the same way; a mixture
    of experts over them is no merge. The best coefficient is the best of several noisy scores.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

from evomerge.optimizers.kernel.blends import Blend, BlendPlan, between, kinship
from evomerge.params import Integer, Parameter, Real, Shared


class ModelGlue(BlendPlan):
    """In a cluster, and then among clusters, from the best to the worst:

        best <- a best + (1 - a) next, a of the grid with the best score,  if that is no worse than best

    Clusters are merged side by side. Recommends the whole merge, and before there is one the best told.
    """

    name: ClassVar[str] = "model_glue"
    KINSHIP: ClassVar[bool] = True
    OPTIONS: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "alike",
            Shared(Real(0, 1, default=0.5, valid=(-1, 1))),
            "cosine of task vectors that makes two sources one cluster",
        ),
        Parameter(
            "grid",
            Shared(Integer(1, 99, default=9)),
            "coefficients that are tried, evenly between 0 and 1",
        ),
    )

    @classmethod
    def default_population(cls, dimensions: int) -> int:
        return 10  # the best again, and the grid

    def plan(self) -> tuple[Blend | None, Iterator[Blend]]:
        if self.awaits(self.sources) or not self.by_merit(self.sources):
            return None, iter(self.sources)
        able = [able for cluster in self._clusters() if (able := self.by_merit(cluster))]
        merged = [self._added(cluster) for cluster in able]
        if unfinished := [rival for rival, wanted in merged if wanted]:
            return unfinished[0], itertools.chain(*(wanted for _, wanted in merged))
        best, wanted = self._added(self.by_merit(blend for blend, _ in merged))
        return best, iter(wanted)

    def believed(self) -> Blend | None:
        best, wanted = self.plan()
        return None if self.awaits(wanted) else best

    def _clusters(self) -> list[list[Blend]]:
        """Sources that are linked by likeness, in the order of the sources."""
        clusters, alike = list[list[Blend]](), float(str(self.options["alike"]))
        for source in self.sources:
            near = [
                cluster
                for cluster in clusters
                if max(kinship(self.problem, source, cluster)) >= alike
            ]
            joined = [each for cluster in near for each in cluster]
            clusters = [cluster for cluster in clusters if cluster not in near]
            clusters.append([*joined, source])
        return clusters

    def _added(self, blends: Sequence[Blend]) -> tuple[Blend, list[Blend]]:
        """What greedy adding of ``blends``, best first, has come to, and what its next step awaits."""
        best, *rest = blends
        size = int(str(self.options["grid"]))
        for other in rest:
            trials = [between(best, other, (n + 1) / (size + 1)) for n in range(size)]
            if self.awaits(trials):
                return best, trials
            choice = next(iter(self.by_merit(trials)), best)
            if self.helps(choice, best):
                best = choice
        return best, []
