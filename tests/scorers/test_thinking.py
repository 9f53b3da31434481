"""Thoughts are told from answers as lm-eval tells them, and what a template makes of a chat is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import LlamaForCausalLM

from evomerge.engines import Generated
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.scorers.lm_eval import LmEvalTask
from evomerge.scorers.lm_eval.thinking import Thinking
from evomerge.testing.models import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{{ style }}"
)
CHAT: dict[str, Any] = {"apply_chat_template": True, "fewshot_as_multiturn": True}
CAP = 24
ROWS = [str(row) for row in range(10)]


def thinker(model_folder: Path) -> HuggingFaceEngine:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model = LlamaForCausalLM.from_pretrained(model_folder, dtype="float32")
    return HuggingFaceEngine(model, tokenizer, batch_tokens=512)


def written(engine: HuggingFaceEngine, tasks: Path, **options: Any) -> list[tuple[int, ...]]:
    """What the model writes to each item, in tokens."""
    task = LmEvalTask("generate", include=[tasks], max_gen_toks=CAP, **CHAT, **options)
    task.bind(engine)
    task.score(ROWS)
    return [each.generated[0].tokens for row in task._asked.values() for each in row]


def an_end(engine: HuggingFaceEngine, tasks: Path, **options: Any) -> int:
    """The token that most answers hold, of those that some do not, and that not one ends with."""
    answers = written(engine, tasks, **options)
    held = Counter(token for answer in answers for token in set(answer[:-1]))
    return next(
        token
        for token, count in held.most_common()
        if count < len(answers) and chr(token).isascii() and token > 2
    )


@pytest.mark.parametrize(("enabled", "kind"), [(None, int), (True, str), (False, str)])
def test_equals_lm_eval(
    enabled: bool | None,
    kind: type,
    model_folder: Path,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a report of the machine, which takes lm-eval longer than the task
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    engine = thinker(model_folder)
    args = {"style": "Well, "}
    token = an_end(engine, tasks, chat_template_args=args, enable_thinking=enabled)
    text = engine.tokenizer.decode([token])
    end = text if kind is str and not text.isdigit() else token
    thinking: dict[str, Any] = {"enable_thinking": enabled, "think_end_token": end}
    task = LmEvalTask(
        "generate",
        include=[tasks],
        max_gen_toks=CAP,
        chat_template_args=args,
        **CHAT,
        **thinking,
    )
    task.bind(engine)
    scored = task.score(ROWS)
    theirs = HFLM(
        pretrained=engine.module(),
        tokenizer=engine.tokenizer,
        batch_size=1,
        chat_template_args=args,
        **thinking,
    )
    result: Any = simple_evaluate(
        model=theirs,
        tasks=["generate"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        gen_kwargs={"max_gen_toks": CAP},
        samples={"generate": [int(row) for row in ROWS]},
        bootstrap_iters=0,
        **CHAT,
    )
    samples = {(each["doc_id"], each["filter"]): each for each in result["samples"]["generate"]}
    metrics = scored["metrics"]
    for row, response in enumerate(scored["responses"]):
        assert response == samples[row, "strict"]["resps"]
        for filter_ in ("strict", "flexible"):
            assert metrics[f"exact_match,{filter_}"][row] == samples[row, filter_]["exact_match"]
    answers = [each.generated[0] for row in task._asked.values() for each in row]
    counted = zip(metrics["length"], metrics["thought_length"], answers, strict=True)
    for length, thought, answer in counted:
        assert length + thought == len(answer.tokens)
        if token in answer.tokens:
            assert (
                token not in answer.tokens[int(thought) :]
                and answer.tokens[int(thought) - 1] == token
            )
        else:
            assert thought == (
                len(answer.tokens) if answer.truncated and enabled is not False else 0
            )
    assert len({token in answer.tokens for answer in answers}) == 2


def test_lengths_of_thought_and_answer() -> None:
    tokenizer = byte_tokenizer()

    def read(text: str, end: str | int, truncated: bool, enabled: bool | None) -> tuple[str, int]:
        tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
        answer = Generated(text, tokens, truncated)
        return Thinking.of(end, enabled).read(answer, ["\n"], tokenizer)

    assert read("hm</t> 4\n5", "</t>", False, True) == ("4", 6)
    assert read("a</t>b</t> 4", "</t>", False, True) == ("4", 10)
    assert read("hm hm", "</t>", True, True) == ("hm hm", 5)  # thought without end ...
    assert read("hm hm", "</t>", True, False) == ("hm hm", 0)  # ... or an answer
    assert read("4", "</t>", False, True) == ("4", 0)
    assert read("hm</t>", "</t>", False, True) == ("", 6)
    number = tokenizer.encode("!", add_special_tokens=False)[0]
    assert read("a! b! 4", number, False, True) == read("a! b! 4", str(number), False, None)
    assert read("a! b! 4", number, False, True) == ("4", 5)


def test_what_no_answer_can_hold_is_refused(model_folder: Path, tasks: Path) -> None:
    engine = thinker(model_folder)
    for end, said in (("<s>", "special token.*its number: 0"), (1000, "has 258 tokens")):
        task = LmEvalTask("generate", include=[tasks], think_end_token=end)
        with pytest.raises(InputError, match=said):
            task.bind(engine)
        with pytest.raises(InputError, match=said):
            task.prompt_notes(engine.tokenizer)
    for options in (
        {"think_end_token": "</t>"},
        {"think_end_token": "</t>", "enable_thinking": True},
    ):
        with pytest.raises(InputError, match="choice: asks log-likelihoods"):
            LmEvalTask("choice", include=[tasks], **CHAT, **options)
    LmEvalTask("choice", include=[tasks], enable_thinking=False, **CHAT).bind(engine)


def test_thoughts_have_no_slope(tasks: Path) -> None:
    task = LmEvalTask("generate", include=[tasks], think_end_token="</t>", enable_thinking=True)
    assert "thought" in task.teaches
    assert not LmEvalTask("generate", include=[tasks], enable_thinking=False).teaches


def test_what_a_template_makes_otherwise_is_said(model_folder: Path, tasks: Path) -> None:
    tokenizer = thinker(model_folder).tokenizer
    task = LmEvalTask(
        "generate",
        include=[tasks],
        system_instruction="Add up.",
        chat_template_args={"style": "x", "styles": "y"},
        enable_thinking=True,
        think_end_token="</t>",
        **CHAT,
    )
    system, unread, stops, short = task.prompt_notes(tokenizer)
    assert system == (
        "generate: its system turn ('Add up.') is left out, as lm-eval does, for the chat template refuses it: "
        "no system turns"
    )
    assert unread == "generate: styles does nothing: the chat template never reads it"
    assert "stop at '\\n' inside a thought" in stops
    assert short == "generate: a thought and its answer have 12 tokens together; see max_gen_toks"
    plain = LmEvalTask("generate", include=[tasks], **CHAT)
    assert plain.prompt_notes(tokenizer) == []
    tokenizer.chat_template = "{{ raise_exception('speak to me of nothing') }}"
    with pytest.raises(InputError, match=r"refuses turns of user.*: speak to me of nothing"):
        plain.prompt_notes(tokenizer)
