"""Candidates, held in little room: most of a long search is never looked at again."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from evomerge.params import Genome
from evomerge.recipe import Recipe

Make = Callable[[Mapping[str, Any]], Recipe]
"""From a body in plain form to its recipe."""


class Candidate:
    """A numbered recipe, with its genome if the search space holds it, and where it came from.

    One that was packed, or comes from a journal, holds its recipe's body as compressed text, and makes the
    recipe anew whenever it is asked for. Candidates are equal whose contents are.

    Attributes:
        id: its number.
        origin: in words.
        digest: of the recipe; of one from a journal it is worked out when it is asked for.
        slope: its slope is wanted, too; by its row weights, in the phase ``rows``.
    """

    __slots__ = ("_body", "_digest", "_genome", "_make", "_recipe", "id", "origin", "slope")

    def __init__(
        self,
        id: int,
        origin: str,
        recipe: Recipe,
        genome: Genome | None = None,
        slope: bool = False,
    ) -> None:
        self.id, self.origin, self.slope = id, origin, slope
        self._digest: str | Recipe = recipe.digest  # or what makes it from the body
        self._recipe: Recipe | None = recipe
        self._genome: Genome | array[float] | None = genome
        self._body = b""
        self._make: Make | None = None

    @classmethod
    def written(
        cls,
        id: int,
        origin: str,
        body: Mapping[str, Any],
        template: Recipe,
        make: Make,
        genome: Genome | None = None,
        slope: bool = False,
    ) -> Candidate:
        """One whose recipe is ``template`` with a body in plain form, which ``make`` makes, and may refuse."""
        made = cls.__new__(cls)
        made.id, made.origin, made._digest, made.slope = id, origin, template, slope
        made._genome = None if genome is None else array("d", genome)
        made._hold(body, make)
        return made

    @property
    def recipe(self) -> Recipe:
        if self._recipe is not None:
            return self._recipe
        assert self._make is not None
        return self._make(self._plain)

    @property
    def digest(self) -> str:
        if not isinstance(self._digest, str):
            self._digest = self._digest.digest_with(self._plain)
        return self._digest

    @property
    def genome(self) -> Genome | None:
        return None if self._genome is None else tuple(self._genome)

    def pack(self, template: Recipe) -> None:
        """Hold as little as can be, if the recipe is ``template`` with another body."""
        if self._recipe is not None:
            body = self._recipe.body.plain(tuple(template.models))
            if template.digest_with(body) != self.digest:
                return
            self._hold(body, template.with_body)
        if self._genome is not None:
            self._genome = array("d", self._genome)

    def _hold(self, body: Mapping[str, Any], make: Make) -> None:
        try:
            text = msgspec.json.encode(body)
        except (TypeError, ValueError):  # numbers of numpy, half a surrogate pair
            text = json.dumps(body).encode()
        self._body, self._make, self._recipe = zlib.compress(text, 1), make, None

    @property
    def _plain(self) -> dict[str, Any]:
        """The body that is held."""
        plain: dict[str, Any] = json.loads(zlib.decompress(self._body))
        return plain

    @property
    def _content(self) -> tuple[Any, ...]:
        return self.id, self.origin, self.digest, self.genome, self.slope

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Candidate({self.id}, {self.origin!r}, {self.digest[:16]}, {self.genome})"
