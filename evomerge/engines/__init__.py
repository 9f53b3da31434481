"""What scorers ask of the model that lives in a worker: token ids in, plain numbers out.

An engine is made once per worker around a model whose weights each
candidate overwrites in place: the materializer writes into ``model.named_parameters()``. An engine
that keeps weights in a layout of its own takes the stream of ``Materializer.each`` instead, and
drops whatever it has cached of the weights before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Tokens = Sequence[int]


@dataclass(frozen=True, eq=False)
class Request:
    """``continuation`` is scored, given ``context``; both have at least one token.

    Equal only to itself: an engine may keep what it works out for a request by identity, so a
    scorer makes its requests once and asks with the same objects for every candidate.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Scored(NamedTuple):
    """``nats``: log-likelihood of a continuation; ``greedy``: whether it is the likeliest, token by token."""

    nats: float
    greedy: bool


@dataclass(frozen=True)
class Generated:
    """``tokens`` without the end-of-sequence token; ``truncated`` if only the limit ended it."""

    text: str
    tokens: tuple[int, ...]
    truncated: bool


class Engine(Protocol):
    """What runs one live model.

    Answers depend on the weights and on what is asked in one call, on nothing asked before.
    ``max_length`` is the longest input in tokens; ``tokens`` counts those that went through the
    model so far, each shared prefix once. ``device`` is where the model lies, as torch names it.
    """

    tokenizer: Any
    max_length: int
    tokens: int

    @property
    def device(self) -> str: ...

    def module(self) -> Any | None:
        """The model as a torch module; None if the engine has no such thing."""
        ...

    def loglikelihood(self, requests: Sequence[Request]) -> list[Scored]:
        """One answer per request, NaN where the model's is NaN.

        An input longer than ``max_length`` loses tokens from the left.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Tokens],
        *,
        until: Sequence[str],
        limit: int,
        options: Mapping[str, Any] | None = None,
    ) -> list[Generated]:
        """One continuation per prompt, at most ``limit`` tokens, greedy unless ``options`` say otherwise.

        A continuation ends with an end-of-sequence token or when its text holds one of ``until``,
        which stays in the text. Prompts lose tokens from the left to leave room for ``limit``.

        Args:
            options: as transformers' ``generate`` names them (``do_sample``, ``temperature``, ...).

        Raises:
            FloatingPointError: a next-token distribution is NaN.
        """
        ...
