"""The engine that runs transformers models, several times faster than request by request.

Requests become token trees (``evomerge.engines.huggingface.trees``): what they share goes through the model
once. A beginning that all requests of a call share is encoded first, into a cache that every batch
continues. Logits are made at scored positions alone, and normalised in float32 whatever the dtype
of the model. Batches hold rows of like length, the longest first, up to a number of tokens.
"""

from __future__ import annotations

import gc
import inspect
import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, ClassVar, Self, TypeVar

import torch
import transformers
from torch import Tensor

from evomerge.checkpoint import Donor
from evomerge.engines import EngineOptions, Generated, Outline, Request, Scored, Tokens, Weights
from evomerge.engines.greedy import Ends, unusual
from evomerge.engines.huggingface.arranging import arranged
from evomerge.engines.huggingface.batches import CACHED, Packing, Pass, PassLimits, Read, lay_out
from evomerge.engines.huggingface.building import build_model
from evomerge.engines.huggingface.checkpointing import checkpointed
from evomerge.engines.huggingface.decoding import decode
from evomerge.engines.huggingface.key_values import KeyValues, stacked
from evomerge.engines.huggingface.packing import PackedWeights
from evomerge.engines.huggingface.quantizing import KINDS, take
from evomerge.engines.huggingface.states import States
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import CandidateFailed, InputError
from evomerge.skeleton.modules import output_head

T = TypeVar("T")
Answer = tuple[list[int], bool]  # tokens, and whether only the limit ended them

_BATCH_TOKENS = {"cpu": 1024}  # by device type; of more, activations leave the cache
_BATCH_TOKENS_ELSEWHERE = 8192
_LEAST_TOKENS = 64  # a batch that does not fit in memory is not made smaller than this
_CHUNK = 2**22  # logits normalised at a time: 16 MB, which malloc hands out again and again
_PLANS = 32  # layouts remembered: callers ask the same of candidate after candidate

_USUAL_LENGTH, _NO_LENGTH = 2048, 10**9  # of models and tokenizers that state none


@dataclass(frozen=True)
class _Inputs:
    """A batch as tensors of shape (rows, width), filled up on the right; ``wanted`` is flat."""

    tokens: Tensor
    positions: Tensor
    ends: Tensor
    branches: bool
    wanted: Tensor


@dataclass(frozen=True)
class _Targets:
    """What a batch scores: target ``n`` by the wanted logits ``at[n]``, request after request.

    ``counts`` has (request, number of targets).
    """

    at: Tensor
    tokens: Tensor
    counts: list[tuple[int, int]]


@dataclass(frozen=True)
class _Plan:
    layout: Packing
    passes: list[tuple[_Inputs, _Targets]]


class HuggingFaceEngine:
    """See ``Engine``.

    Args:
        model: of transformers, in eval mode: a causal LM, or one without a head over tokens, of which only its
            module is asked; see ``spreading`` for one on several devices.
        batch_tokens: per forward pass, padding included; None is the device's default. Halved for
            good when memory runs out.
        max_length: in tokens; None is the model's own limit, or the tokenizer's.
        memory: bytes beside the model for a second copy of its weights; None sets no limit.
    """

    HAS_MODULE: ClassVar[bool] = True
    SPREADS: ClassVar[str] = "blocks"
    QUANTIZES: ClassVar[Mapping[str, str]] = KINDS

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: str = "cpu",
        batch_tokens: int | None = None,
        max_length: int | None = None,
        memory: int | None = None,
    ) -> None:
        self.tokenizer, self._device = tokenizer, torch.device(device)
        self._memory = memory
        self._quantized = False
        # makes the model that a candidate of another config than the last one's takes
        self._build: Callable[[Outline], Any] | None = None
        self._config: Mapping[str, Any] = {}
        self._blocks: tuple[Hashable, ...] = ()
        default = _BATCH_TOKENS.get(self._device.type, _BATCH_TOKENS_ELSEWHERE)
        self._planned = lru_cache(_PLANS)(self._plan)
        self.heard: Callable[[int, int], None] = lambda answered, of: None
        self.max_length = max_length or _own_length(model.config, tokenizer)
        self.tokens = 0
        self._run(model, batch_tokens or default)

    def _run(self, model: Any, batch_tokens: int) -> None:
        """Ask ``model`` from now on, in batches of so many tokens."""
        self._take(model)
        head: Any = output_head(model)
        self._headless = head is None
        vocabulary = 1 if self._headless else head.weight.shape[0]
        self._limits = PassLimits(batch_tokens, vocabulary, _reach(model.config))
        self._planned.cache_clear()
        if self._headless:
            return
        if not self._agrees_with_plain_rows():
            self._limits = replace(self._limits, reach=0, continues=True)
            self._planned.cache_clear()
            if not self._agrees_with_plain_rows():
                self._limits = replace(self._limits, continues=False)

    def _take(self, model: Any) -> None:
        """Ask ``model`` from now on, as the last one, which had blocks of the same kinds."""
        self._model = model
        # What transformers calls it depends on its version and on the model.
        named = inspect.signature(model.forward).parameters
        known = (name for name in ("cache", "cache_params") if name in named)
        self._cache = next(known, "past_key_values")
        self._packed = PackedWeights(model, self._memory)

    @classmethod
    def open(cls, outline: Outline, donor: Donor, options: EngineOptions) -> Self:
        """See ``Engine.open``."""

        def build(outline: Outline) -> Any:
            return build_model(
                outline, donor, options.dtype, *options.devices, quantize=options.quantize
            )

        engine = cls(
            build(outline),
            load_tokenizer(donor, options.trust_remote_code),
            device=options.device,
            batch_tokens=options.batch_tokens,
            max_length=options.max_length,
            memory=options.memory,
        )
        engine._build, engine._quantized = build, bool(options.quantize)
        engine._config, engine._blocks = outline.config(), tuple(outline.blocks)
        return engine

    def load(self, weights: Weights) -> None:
        """In place, or tensor by tensor where they are quantized; what was packed of the weights before goes."""
        self._packed.forget()
        config, blocks = weights.outline.config(), tuple(weights.outline.blocks)
        if self._build is not None and (config, blocks) != (self._config, self._blocks):
            # of one that accelerate or bitsandbytes have laid out another is made
            plain = not (self._quantized or hasattr(self._model, "hf_device_map"))
            before = self._config, self._blocks
            made = arranged(self._model, *before, config, blocks) if plain else None
            # whose memory it takes, and whose content is told by where it lies, until the weights are written
            last = self._model if made is not None else None
            self.close()  # never two in memory
            if made is not None:
                self._take(made)
            else:
                self._run(self._build(weights.outline), self._limits.tokens)
            self._config, self._blocks = config, blocks
        else:
            last = None
        if self._quantized:
            take(self._model, weights)
        else:
            weights.into(self._model)
        del last

    @property
    def device(self) -> str:
        return str(self._device)

    def module(self) -> Any:
        """The torch module."""
        return self._model

    def close(self) -> None:
        """Let go of the model."""
        self._packed.forget()
        self._packed = PackedWeights(torch.nn.Module())
        hooked = hasattr(self._model, "hf_device_map")
        self._model = None
        self._planned.cache_clear()
        if hooked:  # what accelerate hung on its modules names them in turn
            gc.collect()
        if self._device.type == "cuda":  # for who asks how much is free
            torch.cuda.empty_cache()

    def _check_head(self) -> None:
        if self._headless:
            raise InputError(
                f"{type(self._model).__name__} has no head over tokens, so no text has a likelihood under it, and it "
                "writes none; score it by a scorer of its module, such as `reward` or `retrieval`"
            )

    def loglikelihood(self, requests: Sequence[Request]) -> list[Scored]:
        """See ``Engine.loglikelihood``.

        Raises:
            InputError: the model has no head over tokens.
        """
        self._check_head()
        with self._packed.used():
            return self._within_memory(lambda: self._score(tuple(requests)))

    def generate(
        self,
        prompts: Sequence[Tokens],
        *,
        until: Sequence[str],
        limit: int,
        options: Mapping[str, Any] | None = None,
    ) -> list[Generated]:
        """See ``Engine.generate``.

        Raises:
            InputError: the model has no head over tokens.
        """
        self._check_head()
        kept = [tuple(prompt[-(self.max_length - limit) :]) for prompt in prompts]
        self._check_tokens(kept)
        longest = max(map(len, kept), default=0)
        settings = self._model.generation_config
        greedy = not options and not unusual(settings)
        eos = settings.eos_token_id
        ends = Ends(self.tokenizer, until, eos if isinstance(eos, list) else [eos])

        def write(numbers: list[int]) -> dict[int, Answer]:
            room = CACHED * self._limits.tokens // (len(kept[numbers[0]]) + limit)
            group = numbers[: max(1, room)]
            asked = [kept[number] for number in group]
            if greedy and longest + limit <= self._limits.reach:
                answers = self._decode(asked, ends, limit)
            else:
                answers = self._generate(asked, ends, limit, options or {})
            return dict(zip(group, answers, strict=True))

        left = sorted(range(len(kept)), key=lambda number: -len(kept[number]))
        written: dict[int, Answer] = {}
        with self._packed.used():
            while left:
                written |= self._within_memory(partial(write, left))
                left = [number for number in left if number not in written]
                self.heard(len(written), len(kept))
        return [self._generated(*written[number], ends) for number in range(len(kept))]

    @property
    def room(self) -> int:
        """See ``Differentiable.room``."""
        return self._limits.tokens

    def checkpointed(self) -> AbstractContextManager[None]:
        """See ``Differentiable.checkpointed``."""
        return checkpointed(self._model)

    def traced(self, requests: Sequence[Request]) -> list[Tensor]:
        """See ``Differentiable.traced``: trees without a cache, which would be written in place."""
        self._check_head()
        limits = replace(self._limits, tokens=_NO_LENGTH)
        plan = self._plan(tuple(requests), limits, header=False)
        found: dict[int, Tensor] = {}
        with torch.enable_grad():
            for inputs, targets in plan.passes:
                logits = self._forward(inputs, None).float()
                first = 0
                for number, count in targets.counts:
                    found[number] = logits[targets.at[first : first + count]]
                    first += count
        self.tokens += plan.layout.tokens
        return [found[number] for number in range(len(requests))]

    @torch.no_grad()
    def _score(self, requests: tuple[Request, ...]) -> list[Scored]:
        if not requests:
            return []
        plan = self._planned(requests)
        header = self._encoded(plan.layout.header)
        answers: dict[int, Scored] = {}
        for inputs, targets in plan.passes:
            cache = header.repeated(len(inputs.tokens)) if header is not None else None
            logits = self._forward(inputs, cache)
            nats, greedy = _normalised(logits, targets)
            first = 0
            for number, count in targets.counts:
                span = slice(first, first + count)
                answers[number] = Scored(sum(nats[span]), all(greedy[span]))
                first += count
            self.heard(len(answers), len(requests))
        self.tokens += plan.layout.tokens
        return [answers[number] for number in range(len(requests))]

    def _plan(
        self, requests: tuple[Request, ...], limits: PassLimits | None = None, header: bool = True
    ) -> _Plan:
        """How to answer ``requests``: worked out for the first candidate that is asked them."""
        whole = [(r.context + r.continuation)[-self.max_length - 1 :] for r in requests]
        self._check_tokens(whole)
        firsts = [len(w) - 1 - len(r.continuation) for w, r in zip(whole, requests, strict=True)]
        layout = lay_out(
            [tokens[:-1] for tokens in whole], firsts, limits or self._limits, headed=header
        )
        passes = [
            (self._inputs(batch, len(layout.header)), self._targets(batch.reads, requests))
            for batch in layout.batches
        ]
        return _Plan(layout, passes)

    def _check_tokens(self, texts: Sequence[Tokens]) -> None:
        """A GPU would not say which token has no row, and answer nothing from then on."""
        rows = getattr(self._model.get_input_embeddings(), "num_embeddings", None)
        largest = max((max(text) for text in texts if text), default=0)
        if rows is not None and largest >= rows:
            raise CandidateFailed(
                f"the tokenizer gives token {largest}, and the model's embedding has {rows} rows: they do not belong together"
            )

    def _targets(self, reads: Sequence[Read], requests: Sequence[Request]) -> _Targets:
        continuations = [requests[read.sequence].continuation for read in reads]
        return _Targets(
            self._tensor([logit for read in reads for logit in read.logits]),
            self._tensor([token for tokens in continuations for token in tokens]),
            [(read.sequence, len(read.logits)) for read in reads],
        )

    def _inputs(self, batch: Pass, header: int) -> _Inputs:
        # What fills a row up sees itself, and nothing sees it.
        pairs = [(row, range(len(row), batch.width)) for row in batch.rows]
        return _Inputs(
            self._tensor([[*row.tokens, *[0] * len(fill)] for row, fill in pairs]),
            self._tensor([[*row.depths, *fill] for row, fill in pairs]) + header,
            self._tensor([[*row.ends, *(column + 1 for column in fill)] for row, fill in pairs]),
            any(row.branches for row in batch.rows),
            self._tensor([row * batch.width + column for row, column in batch.wanted]),
        )

    def _tensor(self, numbers: Any) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)

    def _encoded(self, header: Tokens) -> KeyValues | States | None:
        """The one row that all batches continue; None for no header."""
        if not header:
            return None
        (batch,) = lay_out([header], [len(header) - 1], self._limits).batches
        cache = KeyValues() if self._limits.reach else States(config=self._model.config)
        self._forward(self._inputs(batch, 0), cache)
        return cache

    def _forward(self, inputs: _Inputs, cache: KeyValues | States | None) -> Tensor:
        """The wanted logits, shape (wanted, vocabulary). ``cache`` grows by the batch."""
        options: dict[str, Any] = {"use_cache": False}
        if isinstance(cache, States):  # the model itself knows what it has read
            options = {self._cache: cache, "use_cache": True}
        elif cache is not None or inputs.branches:
            before = 0 if cache is None else cache.get_seq_length()
            options = {
                "attention_mask": _mask(inputs.ends, before, self._model.dtype),
                "position_ids": inputs.positions,
                self._cache: cache,
                "use_cache": cache is not None,
            }
        with _only(self._model.get_output_embeddings(), inputs.wanted):
            logits: Tensor = self._model(input_ids=inputs.tokens, **options).logits
        return logits[0]

    @torch.no_grad()
    def _decode(self, prompts: Sequence[Tokens], ends: Ends, limit: int) -> list[Answer]:
        """Greedy answers, by ``decode``."""
        layout = lay_out(prompts, [len(prompt) - 1 for prompt in prompts], self._limits)
        header = self._encoded(layout.header)
        before, width = len(layout.header), max(map(len, prompts))
        order = [read.sequence for batch in layout.batches for read in batch.reads]
        caches, logits = [], []
        for batch in layout.batches:
            cache = header.repeated(len(batch.rows)) if header is not None else KeyValues()
            made = self._forward(self._inputs(batch, before), cache)
            logits.append(made[self._tensor([read.logits[-1] for read in batch.reads])])
            columns = [[*range(before), *(before + c for c in r.path)] for r in batch.reads]
            padded = [[0] * (width - len(each)) + each for each in columns]
            rows = self._tensor([read.row for read in batch.reads])
            caches.append(cache.picked(rows, self._tensor(padded)))
        answers = decode(
            self._step,
            torch.cat(logits),
            stacked(caches, room=limit),
            [prompts[number] for number in order],
            ends=ends,
            limit=limit,
            penalty=self._model.generation_config.repetition_penalty or 1.0,
        )
        # The last token of an answer goes through no model.
        self.tokens += layout.tokens + sum(len(tokens) - 1 for tokens, _ in answers)
        return [answer for _, answer in sorted(zip(order, answers, strict=True))]

    def _step(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: KeyValues) -> Tensor:
        made = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            **{self._cache: cache},
        )
        logits: Tensor = made.logits[:, -1]
        return logits

    @torch.no_grad()
    def _generate(
        self, prompts: Sequence[Tokens], ends: Ends, limit: int, options: Mapping[str, Any]
    ) -> list[Answer]:
        """Answers by transformers' own ``generate``: sampling, beams, unusual settings or models."""
        width, fill = max(map(len, prompts)), _fill(self.tokenizer)
        tokens = self._tensor([[*[fill] * (width - len(p)), *p] for p in prompts])
        shown = self._tensor([[*[0] * (width - len(p)), *[1] * len(p)] for p in prompts])
        asked = {"do_sample": False, "max_length": width + limit, "use_cache": True, **options}
        made = self._model.generate(
            input_ids=tokens,
            attention_mask=shown,
            stopping_criteria=transformers.StoppingCriteriaList([_Stopping(ends, width)]),
            logits_processor=transformers.LogitsProcessorList([_RefuseNaN()]),
            pad_token_id=fill,
            **asked,
        )
        answers = [_unfilled(row, fill, ends, limit) for row in made[:, width:].tolist()]
        self.tokens += sum(map(len, prompts)) + sum(len(answer) - 1 for answer, _ in answers)
        return answers

    def _generated(self, answer: list[int], cut: bool, ends: Ends) -> Generated:
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        ended = bool(answer) and answer[-1] in ends.tokens
        return Generated(text, tuple(answer[:-1] if ended else answer), cut)

    def _agrees_with_plain_rows(self) -> bool:
        """Whether the model computes what the limits allow as it does plain rows.

        Trees and headers are right for any attention that takes a mask and positions; not for recurrent layers,
        biases by distance in the row, kernels that know causal masks alone. A header that plain rows continue is
        right for most of these, too.
        """
        tokens = [(31 * n + 7) % self._limits.vocabulary for n in range(44)]
        header, stem = tuple(tokens[:20]), tuple(tokens[20:26])
        headed = (
            Request(header + stem, tuple(tokens[26:32])),
            Request(header + stem, tuple(tokens[32:38])),
            Request(header, tuple(tokens[38:44])),
        )
        # what begins differently has no header: all of it stands in one row
        apart = (
            Request(stem, tuple(tokens[26:32])),
            Request(stem, tuple(tokens[32:38])),
            Request(tuple(tokens[38:44]), tuple(tokens[26:28])),
        )
        limits, spent = self._limits, self.tokens
        try:
            masked = self._score(headed) + self._score(apart)
            self._limits = replace(limits, reach=0, continues=False)
            self._planned.cache_clear()
            plain = self._score(headed) + self._score(apart)
        except Exception:  # whatever a model says to arguments that it does not know
            return False
        finally:
            self._limits, self.tokens = limits, spent
            self._planned.cache_clear()
        close = 4 * torch.finfo(self._model.dtype).eps
        # of a model whose states say little, what is computed wrongly makes little difference
        least = 2e-4 if self._model.dtype == torch.float32 else 0.02
        return all(
            abs(one.nats - other.nats) <= least + close * abs(other.nats)
            for one, other in zip(masked, plain, strict=True)
        )

    def _within_memory(self, run: Callable[[], T]) -> T:
        """``run()``, again with batches of half the size for as long as memory runs out."""
        before = self._limits.tokens
        while True:
            try:
                result = run()
                break
            except RuntimeError as error:
                if not _is_out_of_memory(error) or self._limits.tokens < 2 * _LEAST_TOKENS:
                    raise
            self._limits = replace(self._limits, tokens=self._limits.tokens // 2)
            self._planned.cache_clear()
        if self._limits.tokens < before:
            warnings.warn(
                f"out of memory: batches are of {self._limits.tokens} tokens from now on; say "
                f"`batch_tokens: {self._limits.tokens}` in the fitness file to start with that",
                stacklevel=3,
            )
        return result


class _Stopping(transformers.StoppingCriteria):  # type: ignore[misc]
    """``Ends``, row by row, for transformers' ``generate``."""

    def __init__(self, ends: Ends, width: int) -> None:
        self._ends, self._width = ends, width

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        ended = self._ends.ended(input_ids[:, self._width :].tolist())
        return torch.tensor(ended, device=input_ids.device)


class _RefuseNaN(transformers.LogitsProcessor):  # type: ignore[misc]
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if bool(scores.isnan().any()):
            raise FloatingPointError("NaN logits")
        return scores


def _fill(tokenizer: Any) -> int:
    """The token that rows are filled up with, as lm-eval chooses it: penalties of some models see it."""
    named = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)
    return int(next((token for token in named if token is not None), 0))


def _unfilled(row: list[int], fill: int, ends: Ends, limit: int) -> Answer:
    """An answer without what ``generate`` filled it up with, and whether only ``limit`` ended it."""
    end = next((at + 1 for at, token in enumerate(row) if token in ends.tokens), None)
    answer = row[:end]
    while end is None and len(answer) > 1 and answer[-1] == fill:
        answer.pop()
    return answer, len(answer) == limit and not ends.ended([answer])[0]


@contextmanager
def _only(head: torch.nn.Module, wanted: Tensor) -> Iterator[None]:
    """Let ``head`` make the logits at the flat positions ``wanted`` alone, as one row."""
    hook = head.register_forward_pre_hook(
        # of a model on several devices the states may lie on another than what was asked
        lambda _, inputs: (
            inputs[0].flatten(0, -2)[wanted.to(inputs[0].device)][None],
            *inputs[1:],
        )
    )
    try:
        yield
    finally:
        hook.remove()


def _mask(ends: Tensor, before: int, dtype: torch.dtype) -> Tensor:
    """Additive, shape (rows, 1, width, before + width): hides all but a token's ancestors."""
    rows, width = ends.shape
    column = torch.arange(width, device=ends.device)
    hidden = (column > column[:, None]) | (column[:, None] >= ends[:, None])
    mask = torch.zeros((rows, width, before + width), dtype=dtype, device=ends.device)
    mask[..., before:].masked_fill_(hidden, torch.finfo(dtype).min)
    return mask[:, None]


def _normalised(logits: Tensor, targets: _Targets) -> tuple[list[float], list[bool]]:
    """Log-probabilities of the targets in nats, and whether each is the likeliest token.

    By torch's ``log_softmax``, as lm-eval's are: over 50,000 tokens in float32 it is off by 1e-5, to
    the same side for every token, which adds up over a long text.
    """
    nats, likeliest = [], []
    size = max(1, _CHUNK // logits.shape[-1])
    parts = torch.split(targets.at, size), torch.split(targets.tokens, size)
    for at, tokens in zip(*parts, strict=True):
        scores = logits[at].float().log_softmax(dim=-1)
        nats.append(scores.gather(1, tokens[:, None])[:, 0])
        likeliest.append(scores.argmax(dim=-1))
    greedy = torch.cat(likeliest) == targets.tokens
    return torch.cat(nats).tolist(), greedy.tolist()


def _own_length(config: Any, tokenizer: Any) -> int:
    """The longest input of a model, in tokens: where lm-eval looks for it, too."""
    named = ("n_positions", "max_position_embeddings", "n_ctx")
    found = [getattr(config.get_text_config(), name, None) for name in named]
    if tokenizer.model_max_length < _NO_LENGTH:
        found.append(tokenizer.model_max_length)
    return int(next((length for length in found if length), _USUAL_LENGTH))


def _reach(config: Any) -> float:
    """How long sequences may be that all layers see whole, and rotate alike."""
    text = config.get_text_config()
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    limits = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if scaling.get("rope_type") in ("dynamic", "longrope"):
        limits.append(scaling.get("original_max_position_embeddings", text.max_position_embeddings))
    return min((limit for limit in limits if limit), default=math.inf)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
