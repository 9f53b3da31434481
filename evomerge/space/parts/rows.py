"""Row weights in a space: no genes, but a descent on thousands of factors behind the search.

Slopes alone can search so many: from what the optimizer recommends, a few steps of Adam on a factor for every
row of every tensor and source. This is careful fine-tuning in a small subspace, that of the sources' task
vectors, and no recipe that one can read: a search that is to explain its blend leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evomerge import config, methods
from evomerge.params import Genome, Integer, Parameter, Real, Shared
from evomerge.recipe import Body, Recipe
from evomerge.rows import BY, ROWS
from evomerge.space.parts import Part
from evomerge.space.settings import parse_values
from evomerge.space.spec import SpaceSpec

LIMIT = 100  # of factors
WIDER = 2  # times the suite's tau: so many factors would learn by heart what lies near the border
STEPS = Parameter("steps", Shared(Integer(1, 10_000, default=16)), "of the descent")
RATE = Parameter(
    "rate",
    Shared(Real(0.01, 0.3, default=0.1, valid=(1e-4, 1))),
    "the first step, of a factor; it falls to a tenth",
)


@dataclass(frozen=True)
class RowSpec:
    """What a space says of row weights.

    Attributes:
        steps: of the descent, each a minibatch of search items.
        rate: of its first step, in units of a factor.
        low, high: between which a factor stays; it starts at 1.
        by: what has a factor: ``rows`` or ``columns``.
    """

    steps: int = 16
    rate: float = 0.1
    low: float = 0.0
    high: float = 2.0
    by: str = ROWS


class Rows(Part):
    """``rows: true``, or ``{steps, rate, range, by}``."""

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> RowSpec | None:
        """None for ``false``."""
        if isinstance(node.value, bool):
            return RowSpec() if node.value else None
        section = config.Section(node, problems, f"{where}.", instead="true")
        found = parse_values(section, (STEPS, RATE))
        if (item := section.get("range")) is not None:
            ends = item.plain
            pair = isinstance(ends, list) and len(ends) == 2
            numbers = pair and all(type(end) in (int, float) for end in ends)
            if numbers and -LIMIT <= ends[0] < 1 < ends[1] <= LIMIT:
                found["low"], found["high"] = map(float, ends)
            else:
                section.problem(
                    "range",
                    f"expected [low, high] around 1, within {LIMIT}, found {config.shown(item.plain)}",
                )
        if (item := section.get("by")) is not None:
            found["by"] = item.plain
            if item.plain not in BY:
                section.problem(
                    "by", f"expected {' or '.join(BY)}, found {config.shown(item.plain)}"
                )
        section.finish()
        return RowSpec(**found)

    @classmethod
    def refuses(cls, spec: SpaceSpec) -> str | None:
        for name in spec.methods:
            method = methods.get(name)
            fixed = {p.name: spec.setting(p, None) for p in method.parameters if not p.per_model}
            if why := method.why_not_by_row(fixed):
                hint = "; fix normalize: false" if method.by_row else ""
                return (
                    f"row weights are factors of weights that a merge is linear in, and {why}{hint}"
                )
        return None

    def draw(self, genes: Genome, body: Body) -> Body:
        return body

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        yield ()
