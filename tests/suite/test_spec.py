"""The fitness file: what its keys mean, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge import config
from evomerge.commands.check_suite import describe_objectives
from evomerge.suite.slopes import TAU, SlopeOptions
from evomerge.suite.spec import CANDIDATE, SuiteSpec, parse_suite

TWO = """
objectives:
  thai: {task: xcopa_th, language: th}
  bahasa: {task: xcopa_id}
"""


def parsed(text: str, folder: Path) -> tuple[SuiteSpec | None, list[str]]:
    path = folder / "fitness.yaml"
    path.write_text(text, encoding="utf-8")
    problems = config.Problems()
    return parse_suite(config.read(path), ("chat", "sea"), problems), problems.found


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    spec, problems = parsed("objectives: {th: {task: xcopa_th}}", tmp_path)
    assert spec is not None and not problems
    assert spec.candidate == CANDIDATE
    assert (spec.dtype, spec.estimator, spec.gates) == ("auto", "margins composite", True)


@pytest.mark.parametrize(
    ("written", "sizes"), [("60", (60, 60)), ("[30, 90]", (30, 90)), ("[30, 30]", (30, 30))]
)
def test_items_of_a_candidate(tmp_path: Path, written: str, sizes: tuple[int, int]) -> None:
    spec, problems = parsed(
        f"{TWO}  x: {{task: ifeval}}\nitems: {{candidate: {written}}}", tmp_path
    )
    assert spec is not None and not problems
    assert spec.candidate == sizes


@pytest.mark.parametrize("written", ["[90, 30]", "0", "[30]", "true", "many", "[1.5, 2]"])
def test_wrong_items_of_a_candidate(tmp_path: Path, written: str) -> None:
    spec, [problem] = parsed(f"{TWO}  x: {{task: a}}\nitems: {{candidate: {written}}}", tmp_path)
    assert spec is None
    assert "fitness.yaml:6: " in problem and "[first generation, last generation]" in problem
    assert "the first is no larger" in problem


def test_objectives_made_of_others(tmp_path: Path) -> None:
    spec, problems = parsed(f"{TWO}  worst: {{worst_of: [thai, bahasa], floor: 0.5}}", tmp_path)
    assert spec is not None and not problems
    worst = spec.objectives[-1]
    assert (worst["of"], worst["how"], worst["scorer"]) == (("thai", "bahasa"), "worst", "")
    assert [scorer.name for scorer in spec.scorers] == ["xcopa_th", "xcopa_id"]
    assert spec.scorers[0].options == {"language": "th"}


def test_a_distance_from_a_target(tmp_path: Path) -> None:
    spec, problems = parsed(f"{TWO}  near: {{distance_of: thai, target: 0.5}}", tmp_path)
    assert spec is not None and not problems
    near = spec.objectives[-1]
    assert (near["of"], near["how"], near["target"]) == (("thai",), "distance", 0.5)
    assert "near (how far thai is from 0.5, minimised)" in describe_objectives(spec)


def test_objectives_made_of_unknown_ones(tmp_path: Path) -> None:
    spec, [problem] = parsed(f"{TWO}  worst: {{worst_of: [tai, bahasa]}}", tmp_path)
    assert spec is None
    assert "fitness.yaml:5: " in problem
    assert "objectives.worst: 'tai' is no measured objective" in problem
    assert "did you mean 'thai'" in problem
    broken = TWO.replace("language: th", "langauge: th")
    spec, [problem] = parsed(f"{broken}  worst: {{worst_of: [thai, bahasa]}}", tmp_path)
    assert "objectives.thai.langauge: unknown key" in problem, "and no word of worst"


def test_anchors_name_tasks_and_weights(tmp_path: Path) -> None:
    spec, problems = parsed(f"{TWO}anchors: {{xcopa_th: {{'3': 0.5, '9': 1.5}}}}", tmp_path)
    assert spec is not None and not problems
    assert spec.anchors == {"xcopa_th": {"3": 0.5, "9": 1.5}}
    _, problems = parsed(f"{TWO}anchors: {{xcopa_vi: {{'3': 1}}, xcopa_id: {{'3': -1}}}}", tmp_path)
    assert "'xcopa_vi' is no task of this file" in problems[0]
    assert "expected item ids with weights above 0" in problems[1]


def test_one_kind_an_objective(tmp_path: Path) -> None:
    _, [problem] = parsed("objectives: {x: {task: a, worst_of: [y]}}", tmp_path)
    assert "expected exactly one of task, text, reward and retrieval (files), function" in problem


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("  none: {mean_of: []}", "objectives.none.mean_of: expected at least one objective"),
        ("  x: {task: a, target: 0.5}", "objectives.x.target: is a key of `distance_of`"),
        ("  x: {distance_of: thai}", "objectives.x.target: missing; expected a number"),
        ("  x: {distance_of: thai, target: 0.5, direction: maximize}", "a distance is minimised"),
        ("engine: vlm", "did you mean 'vllm'"),
        ("  x: {task: a, floor: 9% of chad}", "'chad' is no model of this run (did you mean 'chat'?); one of 'base', 'chat', 'sea'"),
        ("  x: {task: a, floor: 9% chat}", "expected a number or text like '98% of base'"),
        (
            "items: {shares: {probe: 0, search: 0.5, select: 0, report: 0.5}}",
            "search, select and report each need a share above 0",
        ),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_refused(tmp_path: Path, more: str, message: str) -> None:
    spec, problems = parsed(f"{TWO}{more}", tmp_path)
    assert spec is None
    assert message in "\n".join(problems)


def test_one_mistake_is_one_message(tmp_path: Path) -> None:
    """What is left of the objectives has no weight only because the one with a mistake was put aside."""
    objectives = "objectives: {x: {task: a, floor: 9% of chad}, y: {task: b, weight: 0}}"
    for more in ("", "\nfront: 3"):
        _, [problem] = parsed(objectives + more, tmp_path)
        assert "'chad' is no model of this run" in problem


def test_measures_are_axes_over_objectives(tmp_path: Path) -> None:
    measures = "measures: {thai: {low: 0.2, high: 1}, bahasa: {low: -1, high: 1, cells: 4}}"
    spec, problems = parsed(f"{TWO}{measures}", tmp_path)
    assert spec is not None and not problems
    assert spec.measures == {"thai": (0.2, 1, 10), "bahasa": (-1, 1, 4)}
    assert spec.without(["xcopa_id"]).measures == {"thai": (0.2, 1, 10)}


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("thay: {low: 0, high: 1}", "'thay' is no objective of this file (did you mean 'thai'?)"),
        ("thai: {low: 1, high: 1}", "high: expected a number above low (1), found 1"),
        ("thai: {low: 0}", "measures.thai.high: missing; expected a number, an end of the axis"),
        ("thai: {low: 0, high: 1, cell: 3}", "measures.thai.cell: unknown key"),
        ("thai: {low: 0, high: 1, cells: 0}", "cells: expected a whole number in 1..10000"),
    ],
)
def test_wrong_measures(tmp_path: Path, axis: str, message: str) -> None:
    spec, [problem] = parsed(f"{TWO}measures: {{{axis}}}", tmp_path)
    assert spec is None
    assert "fitness.yaml:5: " in problem and message in problem


def test_how_slopes_are_taken(tmp_path: Path) -> None:
    spec, problems = parsed(f"{TWO}slopes: {{loss: kl, checkpoint: true}}", tmp_path)
    assert spec is not None and not problems
    assert spec.slopes == SlopeOptions("kl", TAU, True)
    assert SlopeOptions() == SuiteSpec((), ()).slopes


@pytest.mark.parametrize("loss", ["cross-entropy", "CE", "nll", "logistic"])
def test_a_loss_without_a_bound_is_refused(tmp_path: Path, loss: str) -> None:
    spec, [problem] = parsed(f"{TWO}slopes: {{loss: {loss}}}", tmp_path)
    assert spec is None
    assert "fitness.yaml:5: fitness.slopes.loss" in problem or "slopes.loss" in problem
    assert "it has no bound, so it spends everything on hopeless items" in problem


def test_wrong_slopes(tmp_path: Path) -> None:
    spec, problems = parsed(f"{TWO}slopes: {{loss: leed, tau: 0, check: true}}", tmp_path)
    assert spec is None
    text = "\n".join(problems)
    assert "loss: unknown name 'leed' (did you mean 'lead'?)" in text
    assert "slopes.tau" in text and "slopes.check: unknown key" in text


def test_objectives_of_one_ranking(tmp_path: Path) -> None:
    found = "{retrieval: q.jsonl, pooling: cls"
    spec, problems = parsed(
        f"objectives:\n  a: {found}, k: 5}}\n  b: {found}, metric: recall}}\n  c: {found}, k: 5, metric: mrr}}",
        tmp_path,
    )
    assert spec is not None and not problems
    [scorer] = spec.scorers
    assert scorer.options == {"pooling": "cls", "k": [5, 10]}
    assert [each["metric"] for each in spec.objectives] == ["ndcg@5", "recall@10", "mrr@5"]
    spec, problems = parsed(f"objectives: {{a: {found}, k: 5}}, b: {found}, k: 5}}}}", tmp_path)
    assert spec is not None and not problems
    assert [each["metric"] for each in spec.objectives] == ["ndcg", "ndcg"]
    spec, [problem] = parsed(
        "objectives: {a: {retrieval: q, pooling: cls}, b: {retrieval: q, k: 3}}", tmp_path
    )
    assert spec is None and "q already stands above with other options" in problem
    assert "(pooling: 'cls' there, none here" in problem and "copy it to another name" in problem


CHAT = "apply_chat_template: true"


def test_what_a_chat_template_is_told(tmp_path: Path) -> None:
    spec, problems = parsed(
        f"objectives: {{a: {{task: b, {CHAT}, enable_thinking: false, chat_template_args: {{effort: low, tools: [x]}}}}, "
        "c: {task: d, think_end_token: 17}}",
        tmp_path,
    )
    assert spec is not None and not problems
    assert spec.scorers[0].options == {
        "apply_chat_template": True,
        "enable_thinking": False,
        "chat_template_args": {"effort": "low", "tools": ["x"]},
    }
    assert spec.scorers[1].options == {"think_end_token": 17}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "enable_thinking: false",
            "enable_thinking: says something to a chat template, but apply_",
        ),
        ("chat_template_args: {a: 1}", "chat_template_args: says something to a chat template"),
        (f"{CHAT}, enable_thinking: true", "enable_thinking: say what ends a thought, too"),
        (f"{CHAT}, chat_template_args: [a]", "chat_template_args: expected a mapping"),
        (
            f"{CHAT}, chat_template_args: {{tokenize: true}}",
            "chat_template_args: tokenize: not for",
        ),
        ("think_end_token: true", "think_end_token: expected a text or the number of a token"),
        ("think_end_token: ''", "think_end_token: expected a text or the number of a token"),
    ],
)
def test_what_a_chat_template_cannot_be_told(tmp_path: Path, written: str, message: str) -> None:
    spec, [problem] = parsed(f"objectives:\n  a: {{task: b, {written}}}", tmp_path)
    assert spec is None and message in problem and "fitness.yaml:2: objectives.a." in problem
