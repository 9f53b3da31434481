"""The job of runs/smollm, as far as it goes without its model: what is taught, and what is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.demo import smollm
from evomerge.demo.facts import LANGUAGES, SEA
from evomerge.scorers.lm_eval.description import describe


def test_no_adapter_is_taught_what_both_asks() -> None:
    asked = {item["prompt"] for item in smollm.make_items()["both"]}
    taught = {skill: smollm.training_pairs(skill) for skill in smollm.EPOCHS}
    assert not asked & {prompt for pairs in taught.values() for prompt, *_ in pairs}
    assert not any(turn for *_, turn in taught["words"]), "words sees no dialogue"
    foreign = [LANGUAGES[lang] for lang in SEA]
    assert not any(name in prompt for prompt, *_ in taught["format"] for name in foreign)


def test_half_a_skill_is_not_enough() -> None:
    for item in smollm.make_items()["both"]:
        assert len(set(item["choices"])) == 4
        right = item["choices"][item["answer"]]
        form = smollm.FORMATS[item["prompt"].rpartition(" ")[2]].format("|").split("|")
        shaped = [c for c in item["choices"] if c.startswith(form[0]) and c.endswith(form[1])]
        assert right in shaped and len(shaped) == 3, "the format alone leaves three"
        name = right[len(form[0]) : len(right) - len(form[1])]
        named = {smollm.answer(name, form) for form in smollm.FORMATS}
        assert len(named & set(item["choices"])) == 2, "the word alone leaves two"


def test_tasks_are_written_with_their_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    smollm.write_tasks(Path("made") / "tasks")
    for name in ("words", "format", "both"):
        task = describe(f"smollm_{name}", (str(tmp_path / "made" / "tasks"),))
        assert task.download is None and not task.code and "acc,none" in task.metrics
        lines = (tmp_path / "made" / "tasks" / f"{name}.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == smollm.ITEMS == len({*lines})
        assert all(len(json.loads(line)["choices"]) == 4 for line in lines)


def test_a_search_that_was_not_made_is_not_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert smollm.main(["--out", str(tmp_path), "--verify"]) == 1
    assert str(tmp_path) in capsys.readouterr().out
