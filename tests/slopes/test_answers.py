"""A task that only code can judge is taught by what base and parents wrote, as far as that was right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evomerge.commands.search import search
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.judging.examples import examples
from evomerge.pool import PlainJob
from evomerge.pool.serial import SerialPool
from evomerge.record.events import JOURNAL, RESPONSES
from evomerge.run.preflight import prepare
from evomerge.run.spec import load_run
from evomerge.scorers.lessons import Written
from evomerge.scorers.lm_eval import LmEvalTask
from evomerge.suite.suite import Suite
from evomerge.testing.trajectory import trajectory

DEMO = Path(__file__).parents[2] / "fitness/demo_tasks/demo_write_sea.jsonl"
JUDGE = """\
def judge(doc, results):
    form = doc["target"].split(": ")[0]
    return {"form": float(results[0].startswith(form) and results[0].endswith("."))}
"""
TASK = """\
task: form
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: generate_until
test_split: test
num_fewshot: 0
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{target}}}}"
process_results: !function judge.judge
generation_kwargs: {{until: ["<|end|>", "\\n"], do_sample: false, max_gen_toks: 24}}
metric_list:
  - {{metric: form, aggregation: mean, higher_is_better: true}}
"""
SMALL = {"search": 16, "select": 4, "report": 4, "probe": 0, "candidate": 8}


@pytest.fixture
def judged(run_folder: Callable[..., Path]) -> Callable[[str], Path]:
    """Makes a run of the embedded family by slopes, whose one task is judged by code."""

    def make(name: str) -> Path:
        content: dict[str, Any] = {
            "models": {
                "base": "embedded:base",
                "sources": {"chat": "embedded:chat", "sea": "embedded:sea"},
                "tokenizer": "chat",
            },
            "space": {"methods": ["task_arithmetic"], "start": ["uniform"]},
            "fitness": {
                "include": ["."],
                "objectives": {"form": {"task": "form", "metric": "form"}},
                "items": SMALL,
            },
            "optimizer": {"name": "slope", "steps": 2},
            "budget": {"evaluations": 6},
            "dtype": "float32",
        }
        folder = run_folder(name, **content)
        rows = DEMO.read_text(encoding="utf-8").splitlines()[:80]
        (folder / "form.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (folder / "judge.py").write_text(JUDGE, encoding="utf-8")
        task = TASK.format(file=folder / "form.jsonl")
        (folder / "form.yaml").write_text(task, encoding="utf-8")
        return folder

    return make


class Watched(SerialPool):
    """Keeps the jobs that it was given."""

    jobs: ClassVar[list[PlainJob]] = []

    def submit(self, job: PlainJob) -> None:
        self.jobs.append(job)
        super().submit(job)


def test_it_is_taught_by_right_answers_of_parents(judged: Callable[[str], Path]) -> None:
    folder = judged("run")
    suite = prepare(load_run(folder)).suite
    assert suite.teaching() == {"form": ""}
    assert "by parents' answers, a proxy: its answers are judged by code" in suite.shown()["form"]

    Watched.jobs.clear()
    search(folder, Watched)
    references, asking = Watched.jobs[:3], [job for job in Watched.jobs if job["slope"]]
    assert len(references) == 3 and len(asking) == 2
    assert not any(job["answers"] for job in Watched.jobs if not job["slope"])
    docs = {row["id"]: row for row in map(json.loads, DEMO.read_text("utf-8").splitlines())}
    for job in asking:
        [asked], [answers] = job["slope"].values(), job["answers"].values()
        assert 0 < len(answers) <= len(asked) and set(answers) <= set(asked)
        for item, text in answers.items():
            # a form that is right, whatever stands in it: what some parent wrote, not the target
            assert text.startswith(docs[item]["target"].split(": ")[0]) and text.endswith(".")
    assert any(
        text != docs[item]["target"]
        for job in asking
        for item, text in job["answers"]["form"].items()
    )
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text("utf-8").splitlines()]
    slopes = [line["slopes"]["form"] for line in lines if line.get("slopes")]
    assert len(slopes) == 2 and all(any(abs(v) > 1e-6 for v in slope) for slope in slopes)

    # killed before its first slope came: another process shows the same and descends the same way
    again, kept = judged("again"), (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(kept) if b'"slopes":{' in line)
    (again / JOURNAL).write_bytes(b"".join(kept[:first]))
    (again / RESPONSES).write_bytes((folder / RESPONSES).read_bytes())
    (again / "form.yaml").write_bytes((folder / "form.yaml").read_bytes())
    search(again)
    assert trajectory(again) == trajectory(folder)


def answered(texts: list[str], right: list[float | None], cut: list[float]) -> dict[str, Any]:
    return {
        "form": {
            "items": ["a", "b", "c", "d"],
            "responses": [[[text]] for text in texts],
            "metrics": {"form,none": right, "truncated": cut},
            "tokens": 1,
        }
    }


def test_which_answer_is_taken(judged: Callable[[str], Path]) -> None:
    suite: Suite = prepare(load_run(judged("run"))).suite
    weak = answered(["weak"] * 4, [1.0, 0.0, 0.0, 1.0], [0.0] * 4)
    best = answered(["best"] * 4, [1.0, 1.0, None, 1.0], [0.0, 0.0, 0.0, 1.0])
    equal = answered(["equal"] * 4, [1.0, 1.0, 0.998, 1.0], [0.0] * 4)
    assert examples(suite, "form", [weak, best]) == {"a": "best", "b": "best", "d": "weak"}
    assert examples(suite, "form", [equal, best])["a"] == "best", "the one that does best"
    assert examples(suite, "form", [best, best])["a"] == "best"
    other = answered(["other"] * 4, [1.0, 1.0, None, 1.0], [0.0] * 4)
    assert examples(suite, "form", [best, other]) == {"a": "best", "b": "best", "d": "other"}
    points = answered(["points"] * 4, [40.0, 1.0, 1.0, 1.0], [0.0] * 4)
    assert examples(suite, "form", [points, best]) == {}, "nobody knows what is right"


SPACED = """\
task: spaced
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{q}}}}:\\n"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: [";"], max_gen_toks: 24}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
{filters}
"""
FILTERS = """\
filter_list:
  - {name: last, filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]}
"""


@pytest.mark.parametrize("filters", ["", FILTERS], ids=["stated", "read off"])
def test_an_answer_continues_its_prompt(
    live: HuggingFaceEngine, tmp_path: Path, filters: str
) -> None:
    """Prompts may end in white space, which belongs to them and is not written again."""
    (tmp_path / "rows.jsonl").write_text('{"q": "1+1", "a": "2"}\n' * 3, encoding="utf-8")
    text = SPACED.format(file=tmp_path / "rows.jsonl", filters=filters)
    (tmp_path / "spaced.yaml").write_text(text, encoding="utf-8")
    task = LmEvalTask("spaced", include=[tmp_path])
    task.bind(live)
    assert task.teaches == ""
    assert task.shown == ("its answers are read off texts that say more" if filters else "")
    id = task.items()[0].id
    for answers, told in (
        ({}, None if filters else "2"),
        ({id: "\nso 2"}, "\nso 2" if filters else "2"),
    ):
        [lesson] = task.lessons([id], answers)
        if told is None:
            assert lesson is None
            continue
        assert isinstance(lesson, Written)
        whole = live.tokenizer.decode(lesson.request.context + lesson.request.continuation[:-1])
        assert whole == f"1+1:\n{told}"
        assert live.tokenizer.encode(";")[0] in lesson.ends
