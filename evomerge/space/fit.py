"""What the parts of a space are fitted to: sources, a depth, and where values are placed over it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from evomerge import methods
from evomerge.space.layout import Arrangement, arrange
from evomerge.space.spec import SpaceSpec
from evomerge.tensors import Place

Team = tuple[str, ...]  # models that are merged with each other


@dataclass(frozen=True)
class Fit:
    """What a part is fitted to.

    Attributes:
        spec: the whole space as configured.
        sources: their names, in order.
        layers: blocks of the merged model.
        places: where tensors are that the space may vary: those that a fixed part decides left out.
        place_of: by name, of every tensor.
        decided: parameters of methods that other parts than ``methods`` draw.
    """

    spec: SpaceSpec
    sources: tuple[str, ...]
    layers: int
    places: tuple[Place, ...]
    decided: frozenset[str] = frozenset()
    place_of: Mapping[str, Place] = field(default_factory=dict)

    @cached_property
    def layout(self) -> Arrangement:
        """Where values are placed over depth and roles."""
        return arrange(self.spec, self.layers, self.places).reached(self.places)

    def teams(self, method: str) -> tuple[Team, ...]:
        """The sets of models that ``method`` may merge, each in the order of the space."""
        models = self.spec.team(method, self.sources)
        return tuple(itertools.combinations(models, methods.get(method).team_size(len(models))))
