"""Roles that are copied from one model: the embedding, the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from evomerge import config
from evomerge.errors import did_you_mean, one_of
from evomerge.params import Genome
from evomerge.recipe import BASE, Body, group
from evomerge.space.fit import Fit
from evomerge.space.parts import Part

KEPT = ("embed", "head")  # roles that may be copied from one model


class Keep(Part):
    """``keep: {role: model}``; no dims."""

    FIXED: ClassVar[bool] = True

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

    def draw(self, genes: Genome, body: Body) -> Body:
        return replace(body, groups=(*self._groups, *body.groups))


class KeepFrom(Keep):
    """``keep_from: model``: both of them, from one model."""

    EXCLUDES: ClassVar[Sequence[str]] = ("keep",)

    @staticmethod
    def parse(
        node: config.Node, where: str, sources: Sequence[str], problems: config.Problems
    ) -> dict[str, str] | None:
        """A model."""
        if node.plain in (*sources, BASE):
            return dict.fromkeys(KEPT, str(node.plain))
        hint = did_you_mean(str(node.plain), sources)
        found = config.shown(node.plain)
        problems.add(node, where, f"no model {found}{hint}; {one_of((BASE, *sources))}")
        return None
