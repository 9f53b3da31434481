"""Roles that are copied from one model: the embedding, the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from evomerge import config
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Dim, Genome
from evomerge.recipe import BASE, Body, Recipe, group
from evomerge.space.parts import Fit

KEPT = ("embed", "head")  # roles that may be copied from one model


class Keep:
    """``keep: {role: model}``; no dims."""

    EXCLUDES: ClassVar[Sequence[str]] = ()
    FIXED: ClassVar[bool] = True
    dims: tuple[Dim, ...] = ()

    def __init__(self, settings: Mapping[str, str], fit: Fit) -> None:
        self._groups = tuple(
            group("passthrough", (model,), roles=(role,)) for role, model in settings.items()
        )

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> dict[str, str] | None:
        """A mapping of roles to models."""
        section = config.Section(node, problems, f"{where}.")
        found = {role: section.text(role) for role in KEPT if role in section}
        section.finish()
        for role, model in found.items():
            if model not in (*sources, BASE):
                hint = did_you_mean(model, sources)
                section.problem(role, f"no model {model!r}{hint}; {one_of((BASE, *sources))}")
        return found or None

    @staticmethod
    def known(name: str, fit: Fit) -> Mapping[str, Body]:
        return {}

    def draw(self, genes: Genome, body: Body) -> Body:
        return Body((*self._groups, *body.groups))

    def canonical(self, genes: Genome) -> Genome:
        return ()

    def read(self, recipe: Recipe) -> Iterator[Genome]:
        yield ()
