"""Layer paths in a space: which blocks a model consists of, as switches and scales.

    one round    the blocks of the merge, then of each model that is named, in runs of layers
    the path     the runs that are switched on, of so many rounds, in that order
    a scale      of the hidden state on the way into a run that does not follow the one before

The switches are genes without an order; a scale moves something only while its run is on and hops. A path of every
block of the merge, once, is none.

Paper: Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, https://arxiv.org/abs/2403.13187,
    section 3.2 (the indicator array I and the scaling matrix W)

Deviations: theirs has a switch for every layer (``runs`` as large as there are layers) and no blocks of a merge
    (``models`` without ``merge``); a scale belongs to a run, not to a pair of layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge import config, paths
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Choice, Dim, Genome, Integer, Parameter, Real, Shared
from evomerge.paths import SCALE, Hop
from evomerge.recipe import BASE, Body, Recipe
from evomerge.space.fit import Fit
from evomerge.space.parts import Part
from evomerge.space.parts.methods import uniform
from evomerge.space.settings import is_domain, parse_setting, parse_values
from evomerge.space.spec import SpaceSpec

MERGE = "merge"  # stands for what the groups merge, among models
OFF = 0.5  # the gene of a scale that moves nothing
ROUNDS = Parameter("rounds", Shared(Integer(1, 8, default=2)), "how often all runs stand in line")
RUNS = Parameter("runs", Shared(Integer(1, paths.MOST, default=8)), "of layers, of each model")
MOST = Parameter("most", Shared(Integer(1, paths.MOST, default=1)), "blocks of a path")
UPSCALED = "depth_upscale"


@dataclass(frozen=True)
class PathSpec:
    """What a space says of paths.

    Attributes:
        models: whose blocks there are, in this order.
        rounds: how often they stand in line.
        runs: into how many runs of layers each model is cut, at most.
        most: blocks of a path, no fewer than the models have; None is half as many again.
        scale: of hops; fixed, or searched.
    """

    models: tuple[str, ...] = (MERGE,)
    rounds: int = 2
    runs: int = 8
    most: int | None = None
    scale: float | Real = 1.0

    def deepest(self, layers: int) -> int:
        """Most blocks of a path, for models of so many ``layers``."""
        return max(layers, self.most or layers + max(1, layers // 2))


@dataclass(frozen=True)
class _Run:
    """Blocks that are switched on together; ``switch`` has the usual in the middle of its axis."""

    name: str
    model: str | None
    first: int
    last: int
    switch: Choice


class PathPart(Part):
    """A switch for each run, and a scale for each where scales are searched."""

    def __init__(self, settings: PathSpec, fit: Fit) -> None:
        self._spec, self._layers = settings, fit.layers
        self._runs = tuple(_runs(settings, fit.layers))
        self._most = settings.deepest(fit.layers)
        self.dims = tuple(
            dim
            for run in self._runs
            for dim in (
                Dim(f"path.{run.name}", run.switch.kind, run.switch.size),
                *([Dim(f"path.{run.name}.scale", "real")] if is_domain(settings.scale) else []),
            )
        )

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> PathSpec | None:
        """``true``, or any of models, rounds, runs, most, scale; None for ``false``."""
        if isinstance(node.value, bool):
            return PathSpec() if node.value else None
        section = config.Section(node, problems, f"{where}.", instead="true")
        models = section.texts("models", (MERGE,))
        if not models:
            section.problem("models", "expected at least one")
        known = (MERGE, BASE, *sources)
        for model in dict.fromkeys(models):
            if model not in known:
                hint = did_you_mean(model, known)
                section.problem("models", f"no model {model!r}{hint}; {one_of(known)}")
            elif models.count(model) > 1:
                section.problem("models", f"{model!r} stands twice; `rounds` repeats all of them")
        found = parse_values(section, (ROUNDS, RUNS, MOST))
        scale: Any = 1.0
        if (item := section.get("scale")) is not None:
            scale = (
                SCALE.domain
                if item.plain is True
                else parse_setting(item, f"{where}.scale", [SCALE], (), problems)
            )
            if not isinstance(scale, Real | float | int):
                section.problem("scale", "expected true, a number, or a range")
        section.finish()
        return PathSpec(models, **found, scale=scale)

    @classmethod
    def refuses(cls, spec: SpaceSpec) -> str | None:
        settings: PathSpec = spec.parts["path"]
        if settings.rounds == 1 and settings.runs == 1 and settings.models == (MERGE,):
            return "one run of one model leaves nothing to choose; give more runs, rounds or models"
        return None

    # -- known recipes ---------------------------------------------------------------------------

    @staticmethod
    def starts() -> Sequence[str]:
        return (UPSCALED,)

    @classmethod
    def usual(cls, spec: SpaceSpec) -> Sequence[str]:
        return ()  # as a rule it takes training afterwards

    @staticmethod
    def known(name: str, fit: Fit) -> Mapping[str, Body]:
        """The average of the sources, its lower and its upper three quarters one after the other.

        Paper: Kim et al. 2023, SOLAR 10.7B, https://arxiv.org/abs/2312.15166
        """
        cut = max(1, fit.layers // 4)
        path = [*range(fit.layers - cut), *range(cut, fit.layers)]
        return {name: replace(uniform(fit), path=tuple(map(Hop, path)))}

    # -- genomes ---------------------------------------------------------------------------------

    def draw(self, genes: Genome, body: Body) -> Body:
        return replace(body, path=self._path(self._read_genes(genes)))

    def canonical(self, genes: Genome, body: Body) -> Genome:
        return self._genes(self._path(self._read_genes(genes)))

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        yield self._genes(recipe.body.path)

    def _read_genes(self, genes: Genome) -> Iterator[tuple[_Run, bool, float]]:
        """For each run, whether it is on, and the scale on the way in."""
        left = iter(genes)
        for run in self._runs:
            on = bool(run.switch.decode(next(left)))
            scale = self._spec.scale
            yield run, on, scale.decode(next(left)) if isinstance(scale, Real) else float(scale)

    def _path(self, chosen: Iterator[tuple[_Run, bool, float]]) -> paths.Path | None:
        """The path of the runs that are on, as far as there is room; None for the merge as it is."""
        path: list[Hop] = []
        for run, on, scale in chosen:
            if not on or len(path) + run.last - run.first >= self._most:
                continue
            first = Hop(run.first, run.model)
            if not first.follows(path[-1] if path else None):
                first = replace(first, scale=scale)
            path += [
                first,
                *(Hop(layer, run.model) for layer in range(run.first + 1, run.last + 1)),
            ]
        whole = [Hop(layer) for layer in range(self._layers)]
        return tuple(path) if path and path != whole else None

    def _genes(self, path: paths.Path | None) -> Genome:
        """The one genome of a path, each run as early as may be; of one that is none of this space, the nearest."""
        left = list(path or map(Hop, range(self._layers)))
        before: Hop | None = None
        genes: list[float] = []
        for run in self._runs:
            blocks = [Hop(layer, run.model) for layer in range(run.first, run.last + 1)]
            there = left[: len(blocks)]
            on = bool(there) and [replace(there[0], scale=1.0), *there[1:]] == blocks
            scale = self._spec.scale
            genes.append(run.switch.encode(on))
            if isinstance(scale, Real):
                hops = on and not blocks[0].follows(before)
                genes.append(scale.encode(there[0].scale) if hops else OFF)
            if on:
                before, left = blocks[-1], left[len(blocks) :]
        return tuple(genes)


def _runs(spec: PathSpec, layers: int) -> Iterator[_Run]:
    count = min(spec.runs, layers)
    ends = [layers * number // count for number in range(count + 1)]
    usual = MERGE if MERGE in spec.models else spec.models[0]
    for turn in range(spec.rounds):
        for model in spec.models:
            for first, end in itertools.pairwise(ends):
                name = f"{turn + 1}.{model}.{first}-{end - 1}"
                # a middle gene is in the second cell
                on = not turn and model == usual
                switch = Choice((False, True), True) if on else Choice((True, False), False)
                yield _Run(name, None if model == MERGE else model, first, end - 1, switch)
