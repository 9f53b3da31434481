"""Parts of a search space: each has dims of its own and draws its share of a recipe's body.

A space is an ordered list of parts: ``methods`` or ``layer_swap`` draws the groups, ``weights: simplex``
sets their weights, ``lines`` scales them over depth, a plugin's part does what it likes with them, and
what is kept from one model comes in front. A plugin is a class like these under an entry point of
group ``evomerge.parts``; its name is a key of the space file.

Every method is pure. A part of a genome is a tuple of numbers in [0, 1], one per dim of the part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from evomerge import config
from evomerge.params import Derivatives, Dim, Genome, Mixture
from evomerge.recipe import Body, Recipe
from evomerge.space.fit import Fit
from evomerge.space.spec import SpaceSpec


class Part(Protocol):
    """A part, made as ``Part(settings, fit)``. What has a default here may be left out.

    Attributes:
        EXCLUDES: keys of a space file that it decides itself.
        GROUPS: True if it draws all groups, in the place of ``methods``, before other parts draw. The keys
            of a space file that are about methods are excluded then, too.
        PARAMETERS: parameters of methods, one value a model, that it draws in the place of ``methods``.
        FIXED: True if known recipes pass through ``draw``, too; such a part has no dims, draws last, and is
            asked for neither ``canonical`` nor ``read``.
        dims: the axes.
        smooth: for each axis, whether recipes have slopes along it.
        levels: of detail, coarse to fine: a name, and for each axis the class of axes that it moves with. The
            last has each axis by itself; that one need not be named.
        mixtures: axes that weigh sources, each by itself, place by place.
    """

    EXCLUDES: ClassVar[Sequence[str]] = ()
    GROUPS: ClassVar[bool] = False
    PARAMETERS: ClassVar[Sequence[str]] = ()
    FIXED: ClassVar[bool] = False
    dims: tuple[Dim, ...] = ()

    @property
    def smooth(self) -> Sequence[bool]:
        return [False] * len(self.dims)

    @property
    def levels(self) -> Sequence[tuple[str, Sequence[int]]]:
        return ()

    @property
    def mixtures(self) -> Sequence[Mixture]:
        return ()

    def __init__(self, settings: Any, fit: Fit) -> None: ...

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> Any:
        """The settings under the part's key; None for no such part, and where problems were noted."""
        ...

    @classmethod
    def refuses(cls, spec: SpaceSpec) -> str | None:
        """Why a space that has this part is none; None if it is one."""
        return None

    # -- known recipes ---------------------------------------------------------------------------

    @staticmethod
    def starts() -> Sequence[str]:
        """What ``start`` may call this part's known recipes."""
        return ()

    @classmethod
    def usual(cls, spec: SpaceSpec) -> Sequence[str]:
        """Those of a space that has this part and names no ``start``."""
        return cls.starts()

    @staticmethod
    def problem(name: str, spec: SpaceSpec, sources: Sequence[str]) -> str | None:
        """Why the known recipes called ``name`` are impossible in this space; None if they are not."""
        return None

    @staticmethod
    def known(name: str, fit: Fit) -> Mapping[str, Body]:
        """The known recipes that ``start`` calls ``name``, by label."""
        return {}

    # -- genomes ---------------------------------------------------------------------------------

    def draw(self, genes: Genome, body: Body) -> Body:
        """``body`` as the parts before have drawn it, with what ``genes`` say."""
        ...

    def canonical(self, genes: Genome, body: Body) -> Genome:
        """The one part of a genome that draws the same in ``body``."""
        return genes

    def pull(self, genes: Genome, body: Body, found: Derivatives) -> Sequence[float]:
        """The derivative by every gene, from those by what ``body``, drawn by ``genes``, says of tensors.

        0 along axes that are not smooth.
        """
        return [0.0] * len(self.dims)

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        """Parts of genomes among which that of ``recipe`` is, if the space holds it."""
        ...
