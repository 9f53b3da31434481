"""A comparison of models with their base: sums and ranks by place, added up tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.parents.comparison.facts import Facts
from evomerge.parents.comparison.spectra import Ranks
from evomerge.parents.comparison.sums import MASK, Sums
from evomerge.parents.comparison.verdict import Finding, Limits, verdict
from evomerge.tensors import Place


@dataclass
class Comparison:
    """Models beside their base, tensor by tensor as they are ``add``-ed.

    Attributes:
        base: as the user named it.
        models: name -> as the user named it.
        mask: of the TALL masks.
        dtype: that the base is stored in, and a merge would be.
        instructed: whether the base knows chats; None: that is not known.
        sampled: whether large tensors are looked at in a sample of entries.
    """

    base: str
    models: Mapping[str, str]
    mask: float = MASK
    dtype: str = "bfloat16"
    instructed: bool | None = None
    sampled: bool = False
    _cells: dict[tuple[int | None, str], tuple[Sums, list[Sequence[Ranks | None]]]] = field(
        default_factory=dict, repr=False
    )

    def add(self, place: Place, sums: Sums, ranks: Sequence[Ranks | None]) -> None:
        """A tensor where ``place`` is: its sums, and the ranks of what each model changes in it."""
        before, matrices = self._cells.get((place.layer, place.role), (None, []))
        if any(ranks):
            matrices.append(ranks)
        self._cells[place.layer, place.role] = (before + sums if before else sums, matrices)

    @property
    def whole(self) -> Facts:
        """Of all weights."""
        return self._facts(lambda layer, role: True)

    @property
    def roles(self) -> dict[str, Facts]:
        """Role -> facts, in the order in which the model has them."""
        every = dict.fromkeys(role for _, role in self._cells)
        return {each: self._facts(lambda layer, role, e=each: role == e) for each in every}  # type: ignore[misc]

    @property
    def layers(self) -> dict[int, Facts]:
        """Block -> facts."""
        every = sorted({layer for layer, _ in self._cells if layer is not None})
        return {each: self._facts(lambda layer, role, e=each: layer == e) for each in every}  # type: ignore[misc]

    @property
    def cells(self) -> dict[tuple[int | None, str], Facts]:
        """Block (None outside of them) and role -> facts."""
        names = tuple(self.models)
        return {place: Facts.of(names, *cell) for place, cell in self._cells.items()}

    def findings(self, limits: Limits) -> list[Finding]:
        """What speaks for and against merging these models."""
        return verdict(self.whole, limits, dtype=self.dtype, instructed=self.instructed)

    def plain(self, limits: Limits) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "base": self.base,
            "models": dict(self.models),
            "mask_lambda": self.mask,
            "dtype": self.dtype,
            "sampled": self.sampled,
            "verdict": [finding.plain for finding in self.findings(limits)],
            "limits": limits.plain,
            "whole": self.whole.plain,
            "roles": {role: facts.plain for role, facts in self.roles.items()},
            "layers": {str(layer): facts.plain for layer, facts in self.layers.items()},
            "cells": [
                {"layer": layer, "role": role, **facts.plain}
                for (layer, role), facts in self.cells.items()
            ],
        }

    def _facts(self, chosen: Callable[[int | None, str], bool]) -> Facts:
        total, every = Sums.none(len(self.models)), list[Sequence[Ranks | None]]()
        for (layer, role), (sums, matrices) in self._cells.items():
            if chosen(layer, role):
                total = total + sums
                every += matrices
        return Facts.of(tuple(self.models), total, every)
