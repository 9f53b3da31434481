"""The embedded family is what it claims to be, and the demo's job is whole wherever it is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge import cli
from evomerge.checkpoint import EMBEDDED, Checkpoint, ModelRef
from evomerge.demo import items, prepare_run
from evomerge.demo.family import STAGES, build_family, make_lines
from evomerge.run.preflight import prepare
from evomerge.run.spec import load_run

ROOT = Path(__file__).parents[1]
TASKS = ROOT / "fitness" / "demo_tasks"
MEMBERS = ("base", "chat", "sea")


def trained_on(stage: str) -> set[str]:
    """Every line that a stage of the training may draw."""
    lines = make_lines()
    return {line.strip() for kind in STAGES[stage].mixture for line in lines[kind]}


def test_the_committed_items_are_what_the_script_makes() -> None:
    for task, made in items.make_items().items():
        text = (TASKS / f"{task}.jsonl").read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == made


def test_nobody_was_trained_on_the_held_out_combination() -> None:
    seen = set().union(*(trained_on(stage) for stage in STAGES))
    made = items.make_items()
    for item in made["demo_chat_sea"]:
        assert item["prompt"] + item["choices"][item["answer"]] not in seen
    for item in made["demo_write_sea"]:
        assert f"{item['prompt']}{item['target']}<|end|>" not in seen


def test_each_parent_saw_its_own_half_only() -> None:
    names = {n for fact in items.facts.all_facts() for c, n in fact.names.items() if c != "en"}
    english = {fact.names["en"] for fact in items.facts.all_facts()}
    foreign = {name for name in names - english if len(name) > 3}
    assert not any(name in line for line in trained_on("chat") for name in foreign)
    assert not any("<|user|>" in line for line in trained_on("sea"))
    right = {i["prompt"] + i["choices"][i["answer"]] for i in items.make_items()["demo_chat_en"]}
    assert right <= trained_on("chat"), "chat knows English dialogue, every fact and style"


def test_there_are_enough_items_from_enough_sources() -> None:
    made = items.make_items()
    assert sum(map(len, made.values())) >= 1500
    assert all(len({i["source"] for i in task}) >= 80 for task in made.values())
    assert all(len({i["id"] for i in task}) == len(task) for task in made.values())


def test_the_models_are_small_ordinary_folders() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    size = sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file())
    assert size < 12 * 2**20
    for name in MEMBERS:
        model = Checkpoint.open(ModelRef(f"embedded:{name}"))
        model.check_finite()
        tokenizer = AutoTokenizer.from_pretrained(model.folder)
        assert AutoModelForCausalLM.from_pretrained(model.folder).config.vocab_size == len(
            tokenizer
        )
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "English 7, plus"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        assert prompt == "<|user|>English 7, plus<|assistant|>"


def test_the_family_can_be_built_again(tmp_path: Path) -> None:
    from dataclasses import replace

    short = {name: replace(stage, steps=2) for name, stage in STAGES.items()}
    for attempt in ("one", "two"):
        build_family(tmp_path / attempt, short)
    for name in MEMBERS:
        one, two = (
            (tmp_path / a / name / "model.safetensors").read_bytes() for a in ("one", "two")
        )
        assert one == two, "training is seeded"


def test_the_committed_job_is_ready() -> None:
    job = prepare(load_run(ROOT / "runs" / "demo"))
    assert len(job.space.dims) == 76


def test_the_job_is_whole_outside_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = prepare_run(tmp_path / "elsewhere")
    assert cli.main(["check", str(folder)]) == 0
    assert "76 genes" in capsys.readouterr().out
    (folder / "run.yaml").write_text("mine", encoding="utf-8")
    prepare_run(folder)
    assert (folder / "run.yaml").read_text(encoding="utf-8") == "mine", "never overwritten"
