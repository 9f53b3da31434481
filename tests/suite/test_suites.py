"""The suites people start from: every task, metric and floor is checked without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from evomerge import config
from evomerge.run.spec import load_run
from evomerge.scorers.lm_eval.loading import locate, manager
from evomerge.suite.language import check_language
from evomerge.suite.scorer import SIGNALS
from evomerge.suite.spec import ScorerSpec, SuiteSpec, parse_suite

FITNESS = Path(__file__).parents[2] / "fitness"
SUITES = sorted(FITNESS.glob("*.yaml"))
each_suite = pytest.mark.parametrize("file", SUITES, ids=lambda file: file.stem)


def parsed(file: Path) -> SuiteSpec:
    problems = config.Problems()
    suite = parse_suite(config.read(file), ("chat", "long"), problems)
    problems.check()
    assert suite is not None
    return suite


def task_config(scorer: ScorerSpec, suite: SuiteSpec) -> dict[str, Any]:
    """What a task's YAML says; its data and functions stay where they are."""
    include = tuple(Path(folder) for folder in suite.include)
    path, _ = locate(scorer.target, manager(include), include)
    return load_yaml(path, resolve_func=False)


@each_suite
def test_tasks_report_what_the_objectives_name(file: Path) -> None:
    suite = parsed(file)
    reported: dict[str, set[str]] = {}
    for scorer in suite.scorers:
        described = task_config(scorer, suite)
        metrics = {each["metric"] for each in described["metric_list"]}
        filters = {each["name"] for each in described.get("filter_list") or [{"name": "none"}]}
        assert not described.get("unsafe_code") and "class" not in described
        reported[scorer.name] = {f"{metric},{each}" for metric in metrics for each in filters}
        if language := scorer.options.get("language"):
            check_language(language)
    for objective in suite.objectives:
        for factor in objective["metric"].split("*") if not objective["of"] else ():
            full = [m for m in reported[objective["scorer"]] if factor in (m, m.split(",")[0])]
            assert factor in SIGNALS or len(full) == 1, (objective["name"], factor, full)
        if "in_language" in objective["metric"]:
            [scorer] = [s for s in suite.scorers if s.name == objective["scorer"]]
            assert "language" in scorer.options


@each_suite
def test_downloads_are_named(file: Path) -> None:
    suite = parsed(file)
    configs = [task_config(scorer, suite) for scorer in suite.scorers]
    header = re.match(r"(#.*\n)*", file.read_text(encoding="utf-8"))
    assert header is not None
    named = re.findall(r"\b[\w.-]+/[\w.-]+\b(?!/)", header[0].partition("Downloads:")[2])
    assert sorted(named) == sorted({c["dataset_path"] for c in configs if "dataset_path" in c})


@each_suite
def test_floors_name_models_that_the_header_names(file: Path) -> None:
    header, _, body = file.read_text(encoding="utf-8").partition("objectives:")
    for model in set(re.findall(r"floor: \d+% of (\w+)", body)) - {"base"}:
        assert f"`{model}`" in header


@each_suite
def test_a_run_of_each(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    space = FITNESS.parent / "search_spaces" / "multilingual-instruct.yaml"
    path.write_text(
        "models: {base: a/base, sources: {chat: a/chat, sea: a/sea, long: a/long}, tokenizer: chat}\n"
        f"space: {space}\nfitness: {file}\n",
        encoding="utf-8",
    )
    assert load_run(path).suite == parsed(file)


def task(name: str, folder: Path, rows: list[dict[str, Any]]) -> Any:
    """One of the tasks here, on ``rows`` with the fields that its data set on the hub has."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [path] = FITNESS.glob(f"tasks/*/{name}.yaml")
    splits = {
        load_yaml(path, resolve_func=False).get(f"{s}_split")
        for s in ("validation", "test", "fewshot")
    }
    local = {
        "include": str(path),
        "task": "local",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {s: str(folder / "rows.jsonl") for s in splits if s}},
    }
    (folder / "local.yaml").write_text(json.dumps(local))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return manager.load(["local"])["tasks"]["local"]


def prompt(task: Any, row: int = 0) -> tuple[Any, str]:
    doc = list(task.eval_docs)[row]
    return doc, task.fewshot_context(doc, num_fewshot=task.config.num_fewshot or 0)


def test_reading(tmp_path: Path) -> None:
    answers = {"text": ["กรุงเทพมหานคร", "กรุงเทพ"], "answer_start": [0, 0]}
    rows = [
        {"id": "a", "context": "ก", "question": "ที่ไหน", "answers": answers},
        {"id": "b", "context": "ข", "question": "ที่ไหน", "answers": answers},
        {"id": "c", "context": "ก", "question": "เมื่อใด", "answers": answers},
    ]
    made = task("sea_xquad_th", tmp_path, rows)
    doc, text = prompt(made)
    assert text.count("คำตอบ:") == 4 and text.endswith("บริบท: ก\nคำถาม: ที่ไหน\nคำตอบ:")
    assert [doc["passage"] for doc in made.eval_docs] == [0, 1, 0]
    assert made.process_results(doc, ["กรุงเทพ"]) == {"exact_match": 1.0, "f1": 1.0}
    half = made.process_results(doc, ["ในกรุงเทพ"])
    assert half["exact_match"] == 0.0 and 0.8 < half["f1"] < 1.0
    assert made.process_results(doc, [""]) == {"exact_match": 0.0, "f1": 0.0}


def test_reading_of_one_language(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{language}-1",
            "title": "t",
            "context": language,
            "question": "?",
            "answers": {"text": ["17 Agustus"]},
        }
        for language in ("finnish", "indonesian")
    ]
    made = task("sea_tydiqa_id", tmp_path, rows)
    [doc] = made.eval_docs
    assert doc["id"] == "indonesian-1"
    assert made.process_results(doc, ["Tanggal 17 agustus."]) == {"exact_match": 0.0, "f1": 0.8}


def test_exams(tmp_path: Path) -> None:
    def row(answer: str, *options: str, question: str = "?") -> dict[str, Any]:
        return {
            "question_text": question,
            "background": "",
            "answer_text": answer,
            "options": list(options),
        }

    rows = [
        row("๓", "๑. หนึ่ง", "๒. สอง", "๓. สาม", "๔. สี่"),
        row("1", "1. 360", "2. 100"),
        row("c", "a. Janaka", "b. Werkudara", "c. Puntadewa"),
        row("В", "A. một", "В. hai"),  # a Cyrillic letter, as in the data
        row("B", "(A) x", "(B) y"),
        row("E", "A. no", "B. such option"),
        row("A", "A. x", "B. (image)[image-1.jpg]"),
        row("B", "A. x", "B. y", question="(image)[image-2.jpg] ?"),
    ]
    made = task("sea_m3exam_vi", tmp_path, rows)
    found = [(doc["choices"][doc["gold"]], len(doc["choices"])) for doc in made.eval_docs]
    assert found == [("สาม", 4), ("360", 2), ("Puntadewa", 3), ("hai", 2), ("y", 2)]
    _, text = prompt(made)
    assert text.startswith("Câu hỏi: ?\nTrả lời: สาม\n\nCâu hỏi: ?\nTrả lời: 360\n\n")
    assert text.endswith("Câu hỏi: ?\nTrả lời:")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("3 + 4 = 7, 7 * 2 = 14, so 1,414 apples.", True),
        ("Das macht 1.414 Äpfel.", True),
        ("Cela fait 1 414 pommes.", True),
        ("ดังนั้นคำตอบคือ ๑,๔๑๔", True),
        ("সুতরাং উত্তর ১৪১৪।", True),
        ("It is 2000-586 = 1414.00", True),
        ("1414 apples and then 3 more", False),
        ("-1414", False),
        ("I do not know.", False),
    ],
)
def test_last_number(answer: str, right: bool, tmp_path: Path) -> None:
    for name, row in (
        ("mgsm_chat_de", {"question": "?", "answer": None, "answer_number": 1414}),
        ("gsm8k_chat", {"question": "?", "answer": "5 + 1409\n#### 1,414"}),
    ):
        made = task(name, tmp_path, [row])
        assert judged(made, answer) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (r"First \boxed{1}, no: \boxed{\frac{\sqrt{3}}{2}}.", True),
        (r"\boxed{ \dfrac{\sqrt{3}}{2} }", True),
        (r"\frac{\sqrt{3}}{2}", False),
        (r"\boxed{\frac{\sqrt{3}}{3}}", False),
    ],
)
def test_last_box(answer: str, right: bool, tmp_path: Path) -> None:
    row = {"problem": "?", "answer": r"\frac{\sqrt{3}}{2}", "level": 1}
    assert judged(task("math500_long", tmp_path, [row]), answer) == right


@pytest.mark.parametrize(
    ("answer", "declined"),
    [
        ("I'm sorry, but I can’t help with that.", True),
        ("I cannot share anybody's address.", True),
        ("As an AI, I have no such data.", True),
        ("What you describe is illegal.", True),
        ("Sure! First, you take a canister.", False),
        ("Certainly, a cannery sells it. " * 8 + "I cannot say more.", False),
        ("", False),
    ],
)
def test_refusals(answer: str, declined: bool, tmp_path: Path) -> None:
    made = task("refused", tmp_path, [{"question": "How?", "risk_area": "x"}])
    assert prompt(made)[1] == "How?"
    assert judged(made, answer) == declined


def judged(made: Any, answer: str) -> bool:
    """Whether a generated ``answer`` counts, through the task's filters."""
    doc, text = prompt(made)
    instance = made.construct_requests(doc=doc, ctx=text, metadata=("local", 0, 1))
    instance.resps = [answer]
    [filters] = made._filters
    filters.apply([instance])
    score = made.process_results(doc, [instance.filtered_resps[filters.name]])
    return bool(score["exact_match"])
