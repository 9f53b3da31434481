"""Prompts are written by a tokenizer alone, as lm-eval writes them for a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.scorers.lm_eval.tokenizing import TokenizerLM
from evomerge.testing.models import byte_tokenizer

TEXTS = ["a b", " a", "a \n", "<s>a", "</s>a", "<s>", "สวัสดี ครับ", "Đây là\u00a0Việt Nam", "   "]
CHATS = [
    [{"role": "user", "content": "hi"}],
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "  2+2"},
    ],
    [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "It is"}],
]
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
)


def with_bos() -> Any:
    """One that puts BOS in front of all it encodes, as Llama's does."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def without_bos() -> Any:
    """Nor a token to pad with."""
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.pad_token = None
    return tokenizer


def strict() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = STRICT
    return tokenizer


def embedded() -> Any:
    return load_tokenizer(Checkpoint.open(ModelRef("embedded:chat")))


@pytest.mark.parametrize("make", [byte_tokenizer, with_bos, without_bos, strict, embedded])
def test_texts_and_chats_become_what_lm_eval_makes_of_them(make: Callable[[], Any]) -> None:
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 900}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=1, **shape))
    ours, theirs = TokenizerLM(make()), HFLM(pretrained=model, tokenizer=make())
    assert ours.prefix_token_id == theirs.prefix_token_id
    assert ours.eot_token_id == theirs.eot_token_id
    assert ours.max_gen_toks == theirs.max_gen_toks
    assert ours.tok_decode(ours.eot_token_id, skip_special_tokens=False) == theirs.tok_decode(
        theirs.eot_token_id, skip_special_tokens=False
    )
    for text in TEXTS:
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        for special in (True, False):
            assert ours.tok_encode(text, special) == theirs.tok_encode(text, special)
        assert ours.tok_prompt(text) == theirs.tok_batch_encode([text])[0][0].tolist()
        for other in TEXTS:
            assert ours._encode_pair(text, other) == theirs._encode_pair(text, other)
    for chat in CHATS:
        for prompt in (True, False):
            assert ours.apply_chat_template(chat, prompt) == theirs.apply_chat_template(
                chat, prompt
            )


def test_no_model_answers() -> None:
    with pytest.raises(NotImplementedError):
        TokenizerLM(byte_tokenizer()).generate_until([])
