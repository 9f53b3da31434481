"""An engine with weights of its own: it copies them at every load, and asks for one input at a time.

Slow and plain. It has no torch module to give, so it is what another process or library would be.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.engines import Generated, Scored
from evomerge.engines.tokenizer import load_tokenizer


class Copying:
    HAS_MODULE: ClassVar[bool] = False

    def __init__(self, tokenizer: Any, length: int, dtype: torch.dtype) -> None:
        self.tokenizer, self.max_length = tokenizer, length
        self._dtype, self._model = dtype, None
        self.tokens = 0

    @classmethod
    def open(cls, outline: Any, donor: Any, options: Any) -> Copying:
        tokenizer = load_tokenizer(donor, options.trust_remote_code)
        length = options.max_length or outline.config()["max_position_embeddings"]
        return cls(tokenizer, length, getattr(torch, options.dtype))

    def load(self, weights: Any) -> None:
        self._model, copies = None, {}

        def take(name: str, tensor: torch.Tensor) -> None:
            copies[name] = tensor.to(self._dtype, copy=True)

        weights.each(take)
        content = dict(weights.outline.config())
        config = type(AutoConfig.for_model(content["model_type"])).from_dict(content)
        model = AutoModelForCausalLM.from_config(config, dtype=self._dtype)
        model.load_state_dict(copies, strict=False)
        model.tie_weights()
        self._model = model.eval()

    device = "cpu"

    def module(self) -> None:
        return None

    def close(self) -> None:
        self._model = None

    @torch.no_grad()
    def _logits(self, tokens: Any) -> torch.Tensor:
        assert self._model is not None
        self.tokens += len(tokens)
        return self._model(torch.tensor([list(tokens)])).logits[0].float()

    def loglikelihood(self, requests: Any) -> list[Scored]:
        return [self._scored(request) for request in requests]

    def _scored(self, request: Any) -> Scored:
        tokens = (request.context + request.continuation)[-self.max_length - 1 :]
        wanted = torch.tensor(request.continuation)
        scores = self._logits(tokens[:-1])[-len(wanted) :].log_softmax(-1)
        nats = scores.gather(1, wanted[:, None]).sum()
        return Scored(float(nats), bool((scores.argmax(-1) == wanted).all()))

    def generate(self, prompts: Any, *, until: Any, limit: int, options: Any = None) -> list[Any]:
        assert not options, "greedy alone"
        return [self._written(list(p[-(self.max_length - limit) :]), until, limit) for p in prompts]

    def _written(self, prompt: list[int], until: Any, limit: int) -> Generated:
        answer: list[int] = []
        while len(answer) < limit:
            logits = self._logits(prompt + answer)[-1]
            if bool(logits.isnan().any()):
                raise FloatingPointError("NaN logits")
            answer.append(int(logits.argmax()))
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            if answer[-1] == self.tokenizer.eos_token_id:
                return Generated(text, tuple(answer[:-1]), False)
            if any(stop in self.tokenizer.decode(answer) for stop in until):
                return Generated(text, tuple(answer), False)
        return Generated(text, tuple(answer), True)
