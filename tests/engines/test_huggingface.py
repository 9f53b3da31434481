"""Token trees, shared headers and batched decoding answer as the model does, one input at a time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from evomerge.engines import Generated, Request
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.registry import ENGINES
from evomerge.testing.models import byte_tokenizer, tiny_family

FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3"]


def requests(seed: int = 0, common: int = 20) -> list[Request]:
    """Choices, equal contexts, single tokens, other contexts with one answer; all begin alike."""
    rng = random.Random(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(2, 258) for _ in range(count))

    header, made = some(common), []
    for size in (3, 17, 40, 18):
        context, answer = header + some(size), some(3)
        made += [Request(context, some(n)) for n in (1, 1, 2, 5)]
        made += [Request(context, answer), Request(header + some(size), answer)]
        made.append(Request(context[:-1], context[-1:] + answer))
    return made


def plainly(model: Any, request: Request, length: int) -> tuple[float, bool]:
    tokens = torch.tensor([(request.context + request.continuation)[-length - 1 : -1]])
    wanted = torch.tensor(request.continuation)
    with torch.no_grad():
        scores = model(tokens).logits[0, -len(wanted) :].log_softmax(-1)
    return float(scores.gather(1, wanted[:, None]).sum()), bool((scores.argmax(-1) == wanted).all())


def assert_plain(engine: HuggingFaceEngine, model: Any, asked: list[Request]) -> None:
    answers = engine.loglikelihood(asked)
    for request, (nats, greedy) in zip(asked, answers, strict=True):
        expected = plainly(model, request, engine.max_length)
        assert nats == pytest.approx(expected[0], abs=1e-4, rel=0)
        assert greedy == expected[1]


def assert_writes_plainly(
    engine: HuggingFaceEngine, model: Any, limit: int = 12, **options: Any
) -> list[Generated]:
    prompts = [request.context for request in requests(1)][:9]
    answers = engine.generate(prompts, until=["q"], limit=limit, options=options or None)
    for prompt, answer in zip(prompts, answers, strict=True):
        kept = torch.tensor([prompt[-(engine.max_length - limit) :]])
        chosen = {"do_sample": False, "max_length": kept.shape[1] + limit, **options}
        alone = model.generate(kept, attention_mask=torch.ones_like(kept), **chosen)
        written = alone[0, kept.shape[1] :].tolist()
        size = len(answer.tokens)
        assert list(answer.tokens) == written[:size]
        ended = "q" in answer.text or written[size : size + 1] == [1]
        assert ended or size == limit
        assert answer.truncated == (not ended)
    return answers


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    made = tiny_family(folder, names=("base",), architecture=request.param)["base"]
    return AutoModelForCausalLM.from_pretrained(made).eval()


def test_trees_answer_as_single_inputs_do(model: Any) -> None:
    engine = HuggingFaceEngine(model, byte_tokenizer(), batch_tokens=100)
    asked = requests()
    assert_plain(engine, model, asked)
    assert engine.tokens < sum(len(r.context + r.continuation) for r in asked) / 3


def test_batches_write_as_single_prompts_do(model: Any) -> None:
    engine = HuggingFaceEngine(model, byte_tokenizer(), batch_tokens=100)
    answers = assert_writes_plainly(engine, model)
    assert len({answer.tokens for answer in answers}) > 3


def test_inputs_longer_than_the_model(live: HuggingFaceEngine) -> None:
    engine = HuggingFaceEngine(live.module(), live.tokenizer, max_length=24)
    assert_plain(engine, live.module(), requests(common=4))
    assert_writes_plainly(engine, live.module())


@pytest.mark.parametrize("architecture", ["Mistral", "Gemma3"])
def test_beyond_a_sliding_window(architecture: str, tmp_path: Path) -> None:
    folder = tiny_family(tmp_path, names=("base",), architecture=architecture, sliding_window=16)
    model = AutoModelForCausalLM.from_pretrained(folder["base"]).eval()
    engine = HuggingFaceEngine(model, byte_tokenizer(), batch_tokens=100)
    assert_plain(engine, model, requests())
    assert_writes_plainly(engine, model)


@pytest.mark.parametrize("kind", ["alibi", "learned"])
def test_models_that_take_no_masks_get_rows_without_branches(kind: str) -> None:
    shape: dict[str, Any] = {"vocab_size": 258, "n_layer": 2, "n_head": 2, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = (
            BloomForCausalLM(BloomConfig(hidden_size=32, initializer_range=0.3, **shape))
            if kind == "alibi"
            else GPT2LMHeadModel(GPT2Config(n_embd=32, initializer_range=0.3, **shape))
        ).eval()
    engine = HuggingFaceEngine(model, byte_tokenizer(), batch_tokens=200, max_length=128)
    assert_plain(engine, model, requests())
    # where biases go by distance in the row, plain rows continue a common header
    whole = sum(len(r.context + r.continuation) for r in requests())
    assert engine.tokens < whole / 3 if kind == "learned" else engine.tokens < whole
    assert_writes_plainly(engine, model)


@pytest.mark.parametrize("setting", [{"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}])
def test_the_models_own_generation_settings_hold(
    setting: dict[str, Any], live: HuggingFaceEngine
) -> None:
    plain = assert_writes_plainly(live, live.module())
    live.module().generation_config.update(**setting)
    assert assert_writes_plainly(live, live.module()) != plain


def test_beams_are_searched(live: HuggingFaceEngine) -> None:
    greedy = assert_writes_plainly(live, live.module())
    assert assert_writes_plainly(live, live.module(), num_beams=3) != greedy


def test_when_memory_runs_out(live: HuggingFaceEngine) -> None:
    engine = HuggingFaceEngine(live.module(), live.tokenizer, batch_tokens=1024)
    expected = engine.loglikelihood(requests(7)), engine.generate([[5] * 40] * 9, until=[], limit=9)

    def exhaust(_: Any, args: Any, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")

    live.module().register_forward_pre_hook(exhaust, with_kwargs=True)
    with pytest.warns(UserWarning, match="say `batch_tokens: 128` in the fitness file"):
        found = engine.loglikelihood(requests(7))
    for one, other in zip(found, expected[0], strict=True):
        assert one.nats == pytest.approx(other.nats, abs=1e-4)
    assert engine.generate([[5] * 40] * 9, until=[], limit=9) == expected[1]
    with pytest.raises(torch.OutOfMemoryError):
        engine.loglikelihood([Request((2,) * 200, (3,))])


def test_answers_end_where_they_should(live: HuggingFaceEngine) -> None:
    def write(*until: str) -> Generated:
        [answer] = live.generate([prompt], until=until, limit=30)
        return answer

    prompt = requests(2)[7].context
    free = write()
    stop = free.text[5:7]
    stopped = write("never", stop)
    assert free.text.startswith(stopped.text)
    assert stopped.text.endswith(stop) and len(stopped.text) < len(free.text)
    assert (free.truncated, stopped.truncated) == (True, False)
    last = free.tokens[3]
    live.module().generation_config.eos_token_id = [1, last]
    ended = write()
    assert ended.tokens == free.tokens[: free.tokens.index(last)]
    assert not ended.truncated


def test_engines_by_name() -> None:
    assert ENGINES.get("huggingface") is HuggingFaceEngine
    assert ENGINES.names() == ["huggingface", "vllm"]
    with pytest.raises(InputError, match=r"unknown name 'hugginface' \(did you mean 'huggingface'"):
        ENGINES.get("hugginface")
