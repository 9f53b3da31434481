"""What a chat template makes otherwise than a task asks is told, or refused, before a search starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.check import check
from evomerge.errors import InputError
from evomerge.run.preflight import prepare
from evomerge.run.spec import load_run
from evomerge.testing.models import CHAT_TEMPLATE, tiny_family

STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@pytest.fixture
def asked(tmp_path: Path, run_folder: Callable[..., Path]) -> Callable[..., Path]:
    """A run whose merges have a template that refuses system turns, and whose task says so much more."""
    family = tiny_family(tmp_path / "family")
    (family["chat"] / "chat_template.jinja").write_text(STRICT + CHAT_TEMPLATE)

    def asked(**task: Any) -> Path:
        models = {
            "base": str(family["base"]),
            "sources": {n: str(family[n]) for n in ("chat", "sea")},
            "tokenizer": "chat",
        }
        objective = {"task": "sums", "apply_chat_template": True, **task}
        fitness = {"include": ["."], "objectives": {"sums": objective}}
        return run_folder(f"run-{len(task)}", models=models, fitness=fitness)

    return asked


def test_check_says_it(asked: Callable[..., Path]) -> None:
    folder = asked(system_instruction="Add up.", enable_thinking=False)
    told = [line for line in check(folder) if line.startswith("note: sums: ")]
    assert told == [
        "note: sums: its system turn ('Add up.') is left out, as lm-eval does, for the chat template refuses it: "
        "no system",
        "note: sums: enable_thinking does nothing: the chat template never reads it",
    ]
    assert not [line for line in check(asked()) if line.startswith("note: sums: ")]


def test_what_cannot_be_asked_is_refused(asked: Callable[..., Path]) -> None:
    folder = asked(chat_template_args={"chat_template": "{{ raise_exception('never') }}"})
    with pytest.raises(InputError, match="sums: the chat template refuses turns of user: never"):
        prepare(load_run(folder))
    broken = asked(num_fewshot=0, stratum="id", source="id")
    with (broken / "sums.yaml").open("a") as file:
        file.write('gen_prefix: "{{question.of[0]}}"\n')
    with pytest.raises(InputError, match="sums, item sum-0-0: its prompt cannot be written: Undef"):
        check(broken)
    with pytest.raises(InputError, match="sums: the chat template cannot be rendered"):
        check(asked(chat_template_args={"tools": 5}, stratum="id"))
