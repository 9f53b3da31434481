"""What lm-eval asks of a model about each document, in tokens: written once per worker."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evomerge.engines import Engine, Generated, Request
from evomerge.errors import InputError
from evomerge.scorers.lessons import Written
from evomerge.scorers.lm_eval.chats import Chat
from evomerge.scorers.lm_eval.isolation import quiet
from evomerge.scorers.lm_eval.loading import GENERATES, writes_requests

# What sampling needs, and greedy decoding ignores.
_OF_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True)
class Decoding:
    """How to generate. ``options`` are those of transformers' ``generate``; none mean greedily."""

    until: list[str]
    limit: int
    options: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Equal for settings that one call may share."""
        return json.dumps([self.until, self.limit, self.options], sort_keys=True, default=str)


@dataclass
class Asked:
    """A request of lm-eval in tokens, and the last model's answers to it.

    ``requests``: a log-likelihood, or the windows of a rolling one. A generation has a ``prompt``
    and ``settings`` in their place, and is answered by ``generated``, once per repeat, of which so many
    tokens are ``thoughts``; what metrics are computed from stands in ``instance``.
    """

    instance: Instance
    requests: Sequence[Request] = ()
    prompt: Sequence[int] = ()
    settings: Decoding | None = None
    generated: Sequence[Generated] = ()
    thoughts: Sequence[int] = ()

    @property
    def repeats(self) -> int:
        """How often the task asks it."""
        return self.instance.repeats or 1

    @property
    def nats(self) -> float:
        """The log-likelihood that was answered."""
        answer = self.instance.resps[0]
        return float(answer[0] if isinstance(answer, tuple) else answer)

    @property
    def targets(self) -> int:
        """How many tokens that is the log-likelihood of."""
        return sum(len(request.continuation) for request in self.requests)


class Prompts:
    """The prompts of a task, tokenized as lm-eval does for a Hugging Face model.

    Args:
        chat: how prompts become a chat, if they do.
        cap: most tokens of a generated answer; None: what each request says.

    Raises:
        InputError: a chat template is asked for and the tokenizer has none, or generation leaves no
            room for a prompt.
    """

    def __init__(
        self, task: Any, name: str, engine: Engine, chat: Chat, cap: int | None = None
    ) -> None:
        self._task, self._name, self._chat, self._cap = task, name, chat, cap
        self._length = engine.max_length
        self._lm = chat.writer(name, engine.tokenizer)
        self._eos = self._lm.tok_decode(self._lm.eot_token_id, skip_special_tokens=False)
        if task.OUTPUT_TYPE == GENERATES and not writes_requests(task):
            self._check_room(self._settings(task.get_config("generation_kwargs") or {}))

    def instances(self, row: int, doc: Any) -> list[Instance]:
        """The requests of one document; see ``Chat.instances``."""
        return self._chat.instances(self._task, row, doc, self._lm)

    def _check_room(self, settings: Decoding) -> None:
        """Refuse answers that leave no room for a prompt."""
        if settings.limit >= self._length:
            raise InputError(
                f"{self._name}: generates up to {settings.limit} tokens, but the model's whole length is "
                f"{self._length}; lower the task's max_gen_toks"
            )

    def encode(self, instance: Instance, where: str) -> Asked:
        """One request in tokens.

        Raises:
            InputError: nothing is asked, an answer has no token or too many, or leaves no room for a
                prompt; ``where`` says of which item.
        """
        if instance.request_type == "loglikelihood":
            return Asked(instance, [self._pair(where, *instance.args)])
        if instance.request_type == "loglikelihood_rolling":
            return Asked(instance, self._windows(*instance.args))
        context, options = instance.args
        prompt = self._lm.tok_prompt(context) if context else []
        if not prompt:
            raise InputError(f"{where}: its prompt is empty; expected a text to continue")
        settings = self._settings(options)
        self._check_room(settings)
        return Asked(instance, prompt=prompt, settings=settings)

    def answer(self, asked: Asked, target: str, *, as_written: bool = False) -> Written | None:
        """A written answer as the prompt's continuation, with any of the ends that stop it; None if too long.

        After a chat template's turn no blank comes first, which a template leaves to the model: what a model
        wrote stays as it is (``as_written``).
        """
        assert asked.settings is not None
        context, _ = asked.instance.args
        if not as_written and (self._chat.on or context[-1:].isspace()):
            target = target.lstrip()
        tokens = self._continued(context, list(asked.prompt), target)
        room = min(asked.settings.limit, self._length - 1)
        if not 0 < len(tokens) < room:
            return None
        ends = {self._lm.eot_token_id}
        for end in asked.settings.until:
            ends.update(self._lm.tok_encode(end, add_special_tokens=False)[:1])
        request = Request(tuple(asked.prompt), (*tokens, self._lm.eot_token_id))
        return Written(request, frozenset(ends))

    def _continued(self, context: str, prompt: list[int], target: str) -> list[int]:
        """The tokens of ``target`` behind those of the prompt, which a model that writes cannot change."""
        whole = self._lm.tok_prompt(context + target)
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        return self._lm.tok_encode(target, add_special_tokens=False)

    def _pair(self, where: str, context: str, continuation: str) -> Request:
        """As ``TemplateLM.loglikelihood`` makes it."""
        lm = self._lm
        if context:
            before, after = lm._encode_pair(context, continuation)
        else:
            after = lm.tok_encode(continuation, add_special_tokens=False)
            before = [lm.prefix_token_id]
            if after[:1] == before:
                before, after = after[:1], after[1:]
        if not 0 < len(after) <= self._length:
            raise InputError(
                f"{where}: the answer {continuation!r} is {len(after)} tokens; expected 1 to "
                f"{self._length}, the model's length"
            )
        return Request(tuple(before), tuple(after))

    def _windows(self, text: str) -> list[Request]:
        """As ``HFLM.loglikelihood_rolling`` makes them."""
        windows = get_rolling_token_windows(
            token_list=self._lm.tok_encode(text),
            prefix_token=self._lm.prefix_token_id,
            max_seq_len=self._length,
            context_len=1,
        )
        pairs = map(make_disjoint_window, windows)
        return [Request(tuple(context), tuple(continuation)) for context, continuation in pairs]

    def _settings(self, options: Mapping[str, Any]) -> Decoding:
        """As ``HFLM.generate_until`` reads them."""
        with quiet():
            read = dict(normalize_gen_kwargs(deepcopy(dict(options)), self._lm.max_gen_toks))
        until = handle_stop_sequences(read.pop("until"), eos=self._eos)
        limit = read.pop("max_gen_toks") if self._cap is None else self._cap
        read.pop("max_gen_toks", None)
        if not read.get("do_sample"):
            read = {name: value for name, value in read.items() if name not in _OF_SAMPLING}
        return Decoding(until, limit, read)
