"""Lessons: what an item teaches, token by token, where it has a right answer.

A lesson is what a bounded loss is made of (``evomerge.slopes``): requests whose logits decide how well an
item is answered. An item without one teaches nothing, unless a model is known to have answered it right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from evomerge.engines import Request
from evomerge.suite.scorer import Taught


@dataclass(frozen=True)
class Choice:
    """Requests among which those numbered ``right`` are to be the likeliest; some are not."""

    requests: tuple[Request, ...]
    right: frozenset[int]


@dataclass(frozen=True)
class Written:
    """An answer to be written: the continuation of ``request``, token after token.

    Its last token may be any of ``ends``; with none of them it is what it says.
    """

    request: Request
    ends: frozenset[int] = frozenset()

    @property
    def requests(self) -> tuple[Request, ...]:
        return (self.request,)


@dataclass(frozen=True)
class Text:
    """Running text in windows, ``size`` bytes of it: every token of their continuations counts."""

    requests: tuple[Request, ...]
    size: int


Lesson = Choice | Written | Text


@runtime_checkable
class Teaching(Taught, Protocol):
    """A scorer whose items teach."""

    def lessons(
        self, ids: Sequence[str], answers: Mapping[str, str] | None = None
    ) -> list[Lesson | None]:
        """What each of the items ``ids`` teaches, in that order; must come after ``bind``.

        Args:
            answers: item -> a right answer that a model wrote, for a scorer that is ``Shown`` them.
        """
        ...
