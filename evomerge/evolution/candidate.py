"""Candidates, held in little room: most of a long search is never looked at again."""

from __future__ import annotations

import hashlib
import json
import zlib
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from evomerge.params import Genome
from evomerge.recipe import Recipe
from evomerge.squeezing import squeeze

Make = Callable[[Mapping[str, Any]], Recipe]
"""From a body in plain form to its recipe."""


class Candidate:
    """A numbered recipe, with its genome if the search space holds it, and where it came from.

    One that comes from a journal holds its recipe's body as text, one that was packed as compressed text, and
    makes the recipe anew whenever it is asked for. Candidates are equal whose contents are.

    Attributes:
        id: its number.
        origin: in words.
        digest: of the recipe; of one from a journal it is worked out when it is asked for.
        slope: its slope is wanted, too; by its row weights, in the phase ``rows``.
        packed: it holds as little as can be.
    """

    __slots__ = (
        *("_body", "_digest", "_genome", "_make", "_recipe"),
        *("id", "origin", "packed", "slope"),
    )

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
        self.packed = False

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
        made.packed = False
        return made

    @property
    def recipe(self) -> Recipe:
        if self._recipe is not None:
            return self._recipe
        assert self._make is not None
        return self._make(self._held)

    @property
    def digest(self) -> str:
        if not isinstance(self._digest, str):
            self._digest = self._digest.digest_with(self._held)
        return self._digest

    @property
    def genome(self) -> Genome | None:
        return None if self._genome is None else tuple(self._genome)

    @property
    def mark(self) -> int:
        """64 bits of what the recipe's body says: they tell candidates of one search apart, sooner than digests."""
        body = self._held if self._recipe is None else _read(_text(_plain(self._recipe)))
        if isinstance(rows := body.get("rows"), Mapping):
            body["rows"] = rows.get("sha256")  # wherever they lie, as in a digest
        try:
            text = msgspec.json.encode(body, order="sorted")
        except ValueError:  # half a surrogate pair
            text = json.dumps(body, sort_keys=True).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")

    def pack(self, template: Recipe) -> None:
        """Hold as little as can be, if the recipe is ``template`` with another body."""
        if self._recipe is not None:
            body = _plain(self._recipe)
            if template.digest_with(body) != self.digest:
                return
            self._hold(body, template.with_body)
            if self._genome is not None:
                self._genome = array("d", self._genome)
        self._body, self.packed = squeeze(self._body, 1), True

    def _hold(self, body: Mapping[str, Any], make: Make) -> None:
        self._body, self._make, self._recipe = _text(body), make, None

    @property
    def _held(self) -> dict[str, Any]:
        """The body that is held, in plain form."""
        return _read(zlib.decompress(self._body) if self.packed else self._body)

    @property
    def _content(self) -> tuple[Any, ...]:
        return self.id, self.origin, self.digest, self.genome, self.slope

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Candidate({self.id}, {self.origin!r}, {self.digest[:16]}, {self.genome})"


def _plain(recipe: Recipe) -> dict[str, Any]:
    return recipe.body.plain(tuple(recipe.models))


def _text(body: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError):  # numbers of numpy, half a surrogate pair
        return json.dumps(body).encode()


def _read(text: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(text)
    except ValueError:  # half a surrogate pair
        found = json.loads(text)
    return found
