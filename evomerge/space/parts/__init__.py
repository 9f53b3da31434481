"""Parts of a search space: each has dims of its own and draws its share of a recipe's body.

A space is an ordered list of parts: ``methods`` or ``layer_swap`` draws the groups, ``lines`` scales
them over depth, a plugin's part does what it likes with them, ``keep`` puts its own in front. A
plugin is a class like these under an entry point of group ``evomerge.parts``; its name is a key of
the space file.

Every method is pure. A part of a genome is a tuple of numbers in [0, 1], one per dim of the part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from evomerge import config
from evomerge.params import Dim, Genome
from evomerge.recipe import Body, Recipe
from evomerge.space.spec import SpaceSpec
from evomerge.tensors import Place


@dataclass(frozen=True)
class Fit:
    """What a part is fitted to.

    Attributes:
        spec: the whole space as configured.
        sources: their names, in order.
        layers: blocks of the merged model.
        places: where tensors are, those that ``keep`` copies left out.
    """

    spec: SpaceSpec
    sources: tuple[str, ...]
    layers: int
    places: tuple[Place, ...]


class Part(Protocol):
    """A part, made as ``Part(settings, fit)``.

    Attributes:
        EXCLUDES: keys of a space file that it decides itself.
        FIXED: True if known recipes pass through ``draw``, too; such a part has no dims.
        dims: the axes.
    """

    EXCLUDES: ClassVar[Sequence[str]]
    FIXED: ClassVar[bool]
    dims: tuple[Dim, ...]

    def __init__(self, settings: Any, fit: Fit) -> None: ...

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> Any:
        """The settings under the part's key; problems are noted, None is returned for no such part."""
        ...

    @staticmethod
    def known(name: str, fit: Fit) -> Mapping[str, Body]:
        """Known recipes that ``start`` calls ``name``, by label; empty if they are not this part's."""
        ...

    def draw(self, genes: Genome, body: Body) -> Body:
        """``body`` as the parts before have drawn it, with what ``genes`` say."""
        ...

    def canonical(self, genes: Genome) -> Genome:
        """The one part of a genome that draws the same."""
        ...

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        """Parts of genomes among which that of ``recipe`` is, if the space holds it."""
        ...
