"""What scorers ask of the model that a worker runs: token ids in, plain numbers out.

An engine is opened once per worker, around a model of the merged one's shapes, and loads candidate
after candidate into it. One whose parameters can be written in place lets a candidate be merged into
them; one that keeps weights in a layout of its own takes the stream of merged tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

from evomerge.checkpoint import Donor

if TYPE_CHECKING:
    import torch

Tokens = Sequence[int]
Take = Callable[[str, "torch.Tensor"], None]


class Outline(Protocol):
    """What an engine is told of a merged model before it takes its weights."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of the parameters, as transformers names them; a tied head is not one of its own."""
        ...

    @property
    def ties(self) -> Mapping[str, str]:
        """The name of a tied tensor -> that of the one it is."""
        ...

    @property
    def blocks(self) -> Sequence[Hashable]:
        """What each block holds: equal ones hold the same, and may lie in memory once."""
        ...

    def config(self) -> Mapping[str, Any]:
        """``config.json`` of the merged models, but for their dtype."""
        ...


class Weights(Protocol):
    """One candidate's weights, merged while they are taken, by one of two ways.

    Both raise ``CandidateFailed`` for a merge that is not finite, whatever was written by then, and
    round values to the recipe's dtype, whatever the engine's is.
    """

    @property
    def outline(self) -> Outline:
        """Of this candidate, which may have another depth than the last one."""
        ...

    def into(self, model: Any) -> None:
        """Write them into ``model.named_parameters()``.

        Blocks that hold the same may share their parameters. Those that the last candidate had, too, are left as they are, if it was merged into this
        ``model``: nothing else may write to it.
        """
        ...

    def each(self, take: Take) -> None:
        """Hand every parameter to ``take`` by name, in no order, from several threads at once.

        The tensor is on the CPU and contiguous; what it holds is gone when ``take`` returns.
        """
        ...


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to run.

    Attributes:
        dtype: of weights and activations, as torch names it.
        devices: as torch names them: one, or several that the model is spread over. Inputs go to the first.
        batch_tokens: per forward pass, padding included; None is the engine's default.
        max_length: of an input in tokens; None is the model's own limit, or the tokenizer's.
        quantize: how many bits weights have while they score, and of what kind, as a fitness file says it; empty:
            they are of ``dtype``.
        memory: bytes that it may take beside the model, its activations and what it caches of them;
            None sets no limit.
        threads: of the CPU.
        trust_remote_code: run code that lies beside the tokenizer.
    """

    dtype: str = "float32"
    devices: tuple[str, ...] = ("cpu",)
    batch_tokens: int | None = None
    max_length: int | None = None
    quantize: str = ""
    memory: int | None = None
    threads: int = 1
    trust_remote_code: bool = False

    @property
    def device(self) -> str:
        """The first of them."""
        return self.devices[0]


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
    """What runs one model at a time: ``open``, then ``load`` and ask, over and over, then ``close``.

    Answers depend on the weights that were loaded last and on what is asked in one call, on nothing
    loaded or asked before. A plugin is such a class under group ``evomerge.engines``; it holds to
    ``evomerge.testing.engines.EngineContract``.

    Attributes:
        HAS_MODULE: whether ``module`` gives one.
        SPREADS: how it spreads one model over several devices: whole ``blocks`` on each, or a share of all
            ``tensors``; empty, or absent: it does not.
        QUANTIZES: ``EngineOptions.quantize`` -> the module that it takes; absent: it does none.
        tokenizer: of transformers.
        max_length: the longest input in tokens.
        tokens: how many went through the model so far, each shared prefix once.
    """

    HAS_MODULE: ClassVar[bool]
    tokenizer: Any
    max_length: int
    tokens: int

    @classmethod
    def open(cls, outline: Outline, donor: Donor, options: EngineOptions) -> Self:
        """An engine that is ready for models as ``outline`` says, without any weights.

        Args:
            donor: the model whose tokenizer, chat template and generation config the merged ones have.
        """
        ...

    def load(self, weights: Weights) -> None:
        """Run the model with ``weights`` from now on, and forget all that was kept of others.

        Where their outline has another config than the last one's, the model is built anew.

        Raises:
            CandidateFailed: the weights are not finite. What the engine runs then is undefined until
                the next ``load``.
        """
        ...

    def module(self) -> Any | None:
        """The model as a torch module; None if the engine has no such thing."""
        ...

    # One that tells how far a call is calls its attribute ``heard(answered, of)``, which a worker sets.

    def close(self) -> None:
        """Give memory and devices back; nothing is asked of it afterwards."""
        ...

    @property
    def device(self) -> str:
        """Where the model is given inputs, as torch names it."""
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


@runtime_checkable
class Differentiable(Protocol):
    """An engine whose answers have derivatives by the model's parameters."""

    @property
    def room(self) -> int:
        """Tokens that it runs at a time."""
        ...

    def module(self) -> Any:
        """The torch module whose parameters those are."""
        ...

    def checkpointed(self) -> AbstractContextManager[None]:
        """While it is open, activations are computed again for a backward pass instead of kept.

        Raises:
            InputError: the model cannot do that.
        """
        ...

    def traced(self, requests: Sequence[Request]) -> list[torch.Tensor]:
        """The logits that continuations are scored by, ``[tokens, vocabulary]`` each, float32.

        Those of one call stay in memory until they are let go of. An input longer than ``max_length``
        loses tokens from the left.
        """
        ...
