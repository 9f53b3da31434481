from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.scorers.lessons import Text, Written
from evomerge.scorers.lm_eval import LmEvalTask
from evomerge.suite.scorer import NonFinite

KINDS = ["choice", "drawn", "likelihood", "rolling", "generate", "sample"]


@pytest.fixture(autouse=True)
def brief_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval adds a report of the machine to results, which takes it longer than the tasks here."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def reference(
    folder: Path,
    tasks: Path,
    name: str,
    rows: Sequence[int] | None,
    batch_size: int = 1,
    **options: Any,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What lm-eval itself says of the exported folder: per-row samples and aggregated results."""
    result = simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size),
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        samples=None if rows is None else {name: list(rows)},
        bootstrap_iters=0,
        **{"fewshot_as_multiturn": False, **options},
    )
    assert result is not None
    samples: dict[str, dict[str, Any]] = {}
    logged: Any = result["samples"]
    for sample in logged[name]:
        row = samples.setdefault(str(sample["doc_id"]), {"responses": sample["resps"]})
        row |= {f"{m},{sample['filter']}": sample[m] for m in sample["metrics"]}
    return samples, result["results"][name]


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


def assert_equal_to_lm_eval(
    task: LmEvalTask,
    ids: Sequence[str],
    samples: dict[str, dict[str, Any]],
    results: dict[str, Any],
) -> None:
    """Texts, flags and choices are the same; log-likelihoods are within 1e-4 nats, or what lm-eval rounds:
    it adds those of a text up in float32.
    """
    scored = task.score(ids)
    assert scored == json.loads(json.dumps(scored, allow_nan=False))
    assert scored["items"] == list(ids)
    expected = [as_json(samples[id]["responses"]) for id in ids]
    assert numbers(scored["responses"]) == pytest.approx(numbers(expected), abs=1e-4, rel=2**-22)
    assert others(scored["responses"]) == others(expected)
    own = {metric: values for metric, values in scored["metrics"].items() if "," in metric}
    assert set(own) == {metric for metric in task.metrics if "," in metric}
    for metric, values in own.items():
        theirs = [as_json(samples[id][metric]) for id in ids]
        assert numbers(values) == pytest.approx(numbers(theirs), abs=1e-4, rel=2**-22)
        assert others(values) == others(theirs)
        assert task.aggregate(metric, values) == pytest.approx(results[metric], rel=1e-5)


def leaves(value: Any) -> Iterator[Any]:
    """What stands in nested lists, in order."""
    if isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def numbers(value: Any) -> list[float]:
    return [leaf for leaf in leaves(value) if type(leaf) in (int, float)]


def others(value: Any) -> list[Any]:
    return [leaf for leaf in leaves(value) if type(leaf) not in (int, float)]


@pytest.mark.parametrize("name", KINDS)
def test_equals_lm_eval_on_the_whole_task(
    name: str, model_folder: Path, tasks: Path, live: HuggingFaceEngine
) -> None:
    task = LmEvalTask(name, include=[tasks])
    task.bind(live)
    ids = [item.id for item in task.items()]
    # What a sampled answer draws depends on its batch: all answers are one for us.
    size = 64 if name == "sample" else 1
    assert_equal_to_lm_eval(task, ids, *reference(model_folder, tasks, name, None, size))


@pytest.mark.parametrize("name", ["choice", "likelihood", "rolling", "generate"])
def test_equals_lm_eval_on_a_subset(
    name: str, model_folder: Path, tasks: Path, live: HuggingFaceEngine
) -> None:
    task = LmEvalTask(name, include=[tasks])
    task.bind(live)
    rows = [1, 2, 4, 5, 7]
    expected = reference(model_folder, tasks, name, rows)
    assert_equal_to_lm_eval(task, [str(row) for row in rows], *expected)


@pytest.mark.parametrize("name", ["choice", "generate"])
@pytest.mark.parametrize("multiturn", [False, True])
def test_equals_lm_eval_with_a_chat_template(
    name: str, multiturn: bool, model_folder: Path, tasks: Path, live: HuggingFaceEngine
) -> None:
    options: dict[str, Any] = {
        "apply_chat_template": True,
        "system_instruction": "Add.",
        "fewshot_as_multiturn": multiturn,
    }
    task = LmEvalTask(name, include=[tasks], **options)
    task.bind(live)
    expected = reference(model_folder, tasks, name, [0, 3, 6], **options)
    assert_equal_to_lm_eval(task, ["0", "3", "6"], *expected)


def test_lm_evals_own_scores_depend_on_its_batch_size(
    model_folder: Path, tasks: Path, live: HuggingFaceEngine
) -> None:
    """Windows with equal inputs share logits there, of which one reads the wrong part."""
    task = LmEvalTask("rolling", include=[tasks])
    task.bind(live)
    ids = [item.id for item in task.items()]
    alone, together = (reference(model_folder, tasks, "rolling", None, n)[0] for n in (1, 8))
    gaps = [alone[id]["responses"][0][0] - together[id]["responses"][0][0] for id in ids]
    assert max(map(abs, gaps)) > 1
    ours = [nats for ((nats,),) in task.score(ids)["responses"]]
    assert ours == pytest.approx([alone[id]["responses"][0][0] for id in ids], rel=1e-6)


def test_half_precision_scores_are_moved_by_no_batch_and_nearer_to_float32_than_theirs(
    model_folder: Path, tasks: Path, live: HuggingFaceEngine
) -> None:
    model = live.module().to(torch.bfloat16)
    lm = HFLM(pretrained=model, tokenizer=live.tokenizer)
    task = LmEvalTask("choice", include=[tasks])
    task.bind(HuggingFaceEngine(model, live.tokenizer))
    ids = [item.id for item in task.items()]
    instances = [each.instance for id in ids for each in task._prepared(int(id))]
    theirs = []
    for size in (1, 16):
        lm.batch_size_per_gpu = size
        theirs.append([nats for nats, _ in lm.loglikelihood(instances, disable_tqdm=True)])
    # on most CPUs the two differ; on some, whose products are the same whatever the batch, they do not
    ours = task.score(ids)
    assert task.score(ids[::-1])["responses"] == ours["responses"][::-1]
    exact = LmEvalTask("choice", include=[tasks])
    model.float()
    exact.bind(HuggingFaceEngine(model, live.tokenizer))
    expected = numbers(exact.score(ids)["responses"])

    def error(nats: list[float]) -> float:
        return float(np.abs(np.subtract(nats, expected)).mean())

    assert error(numbers(ours["responses"])) <= min(map(error, theirs))


def test_drawn_examples_do_not_depend_on_the_subset(tasks: Path, live: HuggingFaceEngine) -> None:
    whole, part = LmEvalTask("drawn", include=[tasks]), LmEvalTask("drawn", include=[tasks])
    whole.bind(live)
    part.bind(live)
    everything = whole.score([item.id for item in whole.items()])["responses"]
    for row in (17, 3):
        (alone,) = part.score([str(row)])["responses"]
        for request, expected in zip(alone, everything[row], strict=True):
            assert request[0][0] == pytest.approx(expected[0][0], abs=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_leaks_from_one_candidate_to_the_next(
    name: str, tasks: Path, live: HuggingFaceEngine
) -> None:
    task = LmEvalTask(name, include=[tasks])
    task.bind(live)
    first = task.score(["2", "5", "6"])
    original = {key: value.clone() for key, value in live.module().state_dict().items()}
    with torch.no_grad():
        for tensor in live.module().parameters():
            tensor.mul_(1.5)
    other = task.score(["5", "6", "1", "2"])
    assert other["responses"][:2] != first["responses"][1:]
    live.module().load_state_dict(original)
    assert task.score(["2", "5", "6"]) == first
    reordered = task.score(["6", "2", "5"])
    assert reordered["responses"] == [first["responses"][i] for i in (2, 0, 1)]


@pytest.mark.parametrize("name", ["choice", "likelihood", "rolling", "generate"])
def test_nan_fails_the_candidate_by_name(name: str, tasks: Path, live: HuggingFaceEngine) -> None:
    task = LmEvalTask(name, include=[tasks])
    task.bind(live)
    with torch.no_grad():
        live.module().model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFinite, match=name) as caught:
        task.score(["1", "2"])
    assert caught.value.name == name
    assert caught.value.item == (None if name == "generate" else "1")


def test_an_overflowing_aggregate_is_not_a_score(tasks: Path) -> None:
    task = LmEvalTask("rolling", include=[tasks])
    with pytest.raises(NonFinite):
        task.aggregate("word_perplexity", [[-1e6, 10]])
    with pytest.raises(NonFinite):
        task.aggregate("bits_per_byte", [])
    assert task.aggregate("bits_per_byte", [[-8.0, 10], None]) == pytest.approx(0.8 / np.log(2))


def test_global_generators_are_left_alone(tasks: Path, live: HuggingFaceEngine) -> None:
    def states() -> str:
        return repr((random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()))

    before = states()
    task = LmEvalTask("sample", include=[tasks])
    task.bind(live)
    task.score(["0", "1"])
    assert states() == before


def test_scoring_is_silent(
    tasks: Path, live: HuggingFaceEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in KINDS:
        task = LmEvalTask(name, include=[tasks])
        task.bind(live)
        task.score(["0", "1"])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_metric_names(tasks: Path) -> None:
    choice = LmEvalTask("choice", include=[tasks])
    assert choice.metrics == {
        "acc,none": True,
        "acc_norm,none": True,
        "brier_score,none": False,
        "margin": True,
        "target_nats": False,
    }
    assert choice.resolve_metric("acc") == choice.resolve_metric("acc,none") == "acc,none"
    with pytest.raises(InputError, match=r"no metric 'acc_nrm' \(did you mean 'acc_norm,none'"):
        choice.resolve_metric("acc_nrm")
    with pytest.raises(InputError, match=r"exact_match,strict or exact_match,flexible"):
        LmEvalTask("generate", include=[tasks]).resolve_metric("exact_match")


def test_signals_of_choices(tasks: Path, live: HuggingFaceEngine) -> None:
    task = LmEvalTask("choice", include=[tasks])
    task.bind(live)
    scored = task.score(["1", "2", "3"])
    for row, right in ((1, 0), (2, 2), (3, 0)):
        nats = [request[0][0] for request in scored["responses"][row - 1]]
        wrong = max(n for number, n in enumerate(nats) if number != right)
        assert scored["metrics"]["margin"][row - 1] == pytest.approx(nats[right] - wrong)
        assert (scored["metrics"]["margin"][row - 1] > 0) == scored["metrics"]["acc,none"][row - 1]
        tokens = len(task._prepared(row)[right].requests[0].continuation)
        assert scored["metrics"]["target_nats"][row - 1] == pytest.approx(-nats[right] / tokens)
    assert scored["tokens"] > 0


def test_signals_of_texts(tasks: Path, live: HuggingFaceEngine) -> None:
    task = LmEvalTask("generate", include=[tasks], language="id")
    task.bind(live)
    ids = [item.id for item in task.items()]
    scored = task.score(ids)
    texts = [texts[0][0] for texts in scored["responses"]]
    signals = {name: values for name, values in scored["metrics"].items() if "," not in name}
    assert list(signals) == ["length", "truncated", "repetitive", "unextracted", "off_language"]
    for text, length, cut, silent, lost in zip(texts, *list(signals.values())[:4], strict=True):
        assert length == 12 if cut else length <= 12
        assert silent == (not text.strip())
        assert lost == (not text[-1:].strip())  # the flexible filter finds the last character
    assert 0 < sum(signals["truncated"]) < len(ids)
    assert set(signals["off_language"]) <= {0.0, 1.0, None}
    assert task.aggregate("truncated", [1.0, None, 0.0]) == 0.5
    assert (
        "margin" not in task.metrics
        and "off_language" not in LmEvalTask("generate", include=[tasks]).metrics
    )
    with pytest.raises(InputError, match="unknown language 'indonesian'"):
        LmEvalTask("generate", include=[tasks], language="indonesian")


def test_products_of_metrics(tasks: Path) -> None:
    task = LmEvalTask("generate", include=[tasks], language="th")
    product = "exact_match,strict*in_language"
    assert task.resolve_metric(product) == product
    assert LmEvalTask("choice", include=[tasks]).resolve_metric("acc*margin") == "acc,none*margin"
    assert task.aggregate(product, [1.0, 0.0, None, 0.0]) == pytest.approx(1 / 3)
    with pytest.raises(InputError, match=r"no metric 'in_langage'.*'in_language'"):
        task.resolve_metric("exact_match,strict*in_langage")


def test_items_say_what_they_ask(tasks: Path) -> None:
    choice = LmEvalTask("choice", include=[tasks], stratum="answer").items()
    assert choice[1].text.splitlines()[0].startswith("Q: ")
    assert choice[1].stratum in choice[1].text.splitlines()
    assert LmEvalTask("rolling", include=[tasks]).items()[0].text == "The cat sat on the mat. "
    with pytest.raises(InputError, match=r"stratum: no field 'lang'"):
        LmEvalTask("choice", include=[tasks], stratum="lang")


def test_items_are_named_by_the_data(tasks: Path) -> None:
    by_row = LmEvalTask("choice", include=[tasks]).items()
    assert [item.id for item in by_row] == [str(row) for row in range(24)]
    assert by_row[3].source == "3"
    by_name = LmEvalTask("choice", include=[tasks], source_field="name").items()
    assert by_name[3].source == "sum-1-3"
    # `source: corpus` in every row is no original: one split would hold the whole task
    rolling = LmEvalTask("rolling", include=[tasks]).items()
    assert len({item.source for item in rolling}) == len(rolling)
    with pytest.raises(InputError, match=r"no field 'nam'.*did you mean 'name'"):
        LmEvalTask("choice", include=[tasks], source_field="nam")


def task_yaml(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def rolling_yaml(folder: Path, name: str, rows: str, extra: str = "") -> Path:
    """A folder with a task of its own: folders are indexed once per process."""
    data = folder / f"{name}.jsonl"
    data.write_text(rows, encoding="utf-8")
    return task_yaml(
        folder / name,
        name,
        f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\n"
        f"doc_to_text: ''\ndoc_to_target: text\n{extra}",
    )


@pytest.mark.parametrize(("ids", "expected"), [("xyz", ["x", "y", "z"]), ("xyx", ["0", "1", "2"])])
def test_an_id_field_counts_if_it_is_unique(tmp_path: Path, ids: str, expected: list[str]) -> None:
    rows = [{"id": id, "text": "a", "source_id": f"s{i}"} for i, id in enumerate(ids)]
    folder = rolling_yaml(tmp_path, "named", "".join(json.dumps(row) + "\n" for row in rows))
    items = LmEvalTask("named", include=[folder]).items()
    assert [item.id for item in items] == expected
    assert [item.source for item in items] == ["s0", "s1", "s2"]


def test_unknown_task(tasks: Path) -> None:
    with pytest.raises(InputError, match=r"'rollin' \(did you mean 'rolling'\?\); looked in"):
        LmEvalTask("rollin", include=[tasks])
    with pytest.raises(InputError, match=r"did you mean 'arc_easy'"):
        LmEvalTask("arc_eazy")
    with pytest.raises(InputError, match=r"no such folder of lm-eval tasks"):
        LmEvalTask("choice", include=[tasks / "absent"])


def test_an_unreadable_task_file_is_named(tmp_path: Path) -> None:
    folder = task_yaml(tmp_path / "broken", "mine", "task: mine\n  output_type: [\n")
    with pytest.raises(InputError, match=r"unknown lm-eval task 'mine'(.|\n)*mine.yaml: skipped"):
        LmEvalTask("mine", include=[folder])


def test_groups_are_refused_with_their_members(tmp_path: Path) -> None:
    folder = task_yaml(tmp_path / "odd", "odd", "group: odd\ntask: [5]\n")
    with pytest.raises(InputError, match=r"odd: a group.*: 5"):
        LmEvalTask("odd", include=[folder])
    folder = task_yaml(tmp_path / "groups", "both", "group: both\ntask: [choice, rolling]\n")
    with pytest.raises(InputError, match=r"both: a group.*: choice, rolling"):
        LmEvalTask("both", include=[folder])
    with pytest.raises(InputError, match=r"mmlu: a group, not a task.*mmlu_stem"):
        LmEvalTask("mmlu")


def test_empty_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"empty.yaml\): its data is empty"):
        LmEvalTask("empty", include=[rolling_yaml(tmp_path, "empty", "")])


def test_data_emptied_by_the_task(tmp_path: Path) -> None:
    none = "process_docs: !function utils.none\n"
    folder = rolling_yaml(tmp_path, "none", '{"text": "a"}\n', none)
    (folder / "utils.py").write_text("def none(docs): return docs.filter(lambda doc: False)\n")
    with pytest.raises(InputError, match=r"none.yaml\): its data is empty"):
        LmEvalTask("none", include=[folder])


def test_errors_in_task_code_are_told(tmp_path: Path) -> None:
    broken = "process_docs: !function utils.broken\n"
    folder = rolling_yaml(tmp_path, "bug", '{"text": "a"}\n', broken)
    (folder / "utils.py").write_text("def broken(docs): raise KeyError('txet')\n")
    with pytest.raises(InputError, match=r"bug.yaml\): cannot be built: KeyError: 'txet'"):
        LmEvalTask("bug", include=[folder])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            "generation_kwargs: until\n",
            r"odd: generation_kwargs: expected a mapping, found 'until'",
        ),
        (
            "filter_list: [{name: x, filter: [{function: map, mapping_dict: 5}]}]\n",
            r"odd\.yaml\): cannot be built: AssertionError: .*not a dictionary",
        ),
        ("tag: [b, 5]\n", r"lm-eval cannot list these tasks: TypeError"),
    ],
)
def test_options_of_a_task_that_make_no_sense_are_one_message(
    tmp_path: Path, lines: str, says: str
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"q": "a", "a": "b"}\n')
    folder = task_yaml(
        tmp_path / "odd",
        "odd",
        f"task: odd\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        f"output_type: generate_until\ntest_split: test\ndoc_to_text: q\ndoc_to_target: a\n{lines}",
    )
    with pytest.raises(InputError, match=says):
        LmEvalTask("odd", include=[folder], max_gen_toks=5)


def test_answers_without_tokens_are_refused(tmp_path: Path, live: HuggingFaceEngine) -> None:
    data = tmp_path / "blank.jsonl"
    data.write_text('{"question": "a", "answer": ""}\n')
    folder = task_yaml(
        tmp_path / "blank",
        "blank",
        f"task: blank\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "output_type: loglikelihood\ntest_split: test\n"
        "doc_to_text: question\ndoc_to_target: answer\n",
    )
    task = LmEvalTask("blank", include=[folder])
    task.bind(live)
    with pytest.raises(InputError, match=r"blank, item 0: the answer '' is 0 tokens"):
        task.score(["0"])


@pytest.mark.slow
def test_data_of_the_hub_without_a_network(tmp_path: Path) -> None:
    folder = task_yaml(
        tmp_path / "hub",
        "far",
        "task: far\ndataset_path: nobody/never-was\ndataset_name: th\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_target: text\n",
    )
    code = (
        "from evomerge.errors import InputError\n"
        "from evomerge.scorers.lm_eval import LmEvalTask\n"
        f"try: LmEvalTask('far', include=[{str(folder)!r}])\n"
        "except InputError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "far.yaml): its data 'nobody/never-was th' cannot be loaded" in done.stdout
    assert "needs a network or a filled cache" in done.stdout


def test_missing_data_file_is_named(tmp_path: Path) -> None:
    folder = task_yaml(
        tmp_path / "gone",
        "gone",
        "task: gone\ndataset_path: json\ndataset_kwargs: {data_files: {test: /no/such.jsonl}}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_target: text\n",
    )
    with pytest.raises(InputError, match=r"gone.*cannot be loaded.*such\.jsonl"):
        LmEvalTask("gone", include=[folder])


def test_few_shot_numbers(tasks: Path) -> None:
    LmEvalTask("generate", include=[tasks], num_fewshot=1)
    with pytest.raises(InputError, match=r"fixes num_fewshot at 0"):
        LmEvalTask("sample", include=[tasks], num_fewshot=1)


def test_a_chat_template_must_exist(tasks: Path, live: HuggingFaceEngine) -> None:
    live.tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"the tokenizer has no chat template"):
        LmEvalTask("choice", include=[tasks], apply_chat_template=True).bind(live)


def test_generation_must_leave_room(tasks: Path, live: HuggingFaceEngine) -> None:
    live.max_length = 12
    with pytest.raises(InputError, match=r"generates up to 12 tokens.*length is 12"):
        LmEvalTask("generate", include=[tasks]).bind(live)


def test_unknown_item(tasks: Path, live: HuggingFaceEngine) -> None:
    task = LmEvalTask("choice", include=[tasks])
    task.bind(live)
    with pytest.raises(InputError, match=r"no item '24' among its 24"):
        task.score(["24"])


def test_no_items_no_answers(tasks: Path, live: HuggingFaceEngine) -> None:
    task = LmEvalTask("choice", include=[tasks])
    with pytest.raises(RuntimeError, match=r"choice: bind a model"):
        task.score([])
    task.bind(live)
    assert task.score([]) == {"items": [], "responses": [], "metrics": {}, "tokens": 0}


def test_a_cap_of_our_own(tasks: Path, live: HuggingFaceEngine) -> None:
    task = LmEvalTask("generate", include=[tasks], max_gen_toks=3)
    task.bind(live)
    metrics = task.score([item.id for item in task.items()])["metrics"]
    assert max(metrics["length"]) == 3
    assert any(metrics["truncated"])
    assert task.fingerprint != LmEvalTask("generate", include=[tasks]).fingerprint
    with pytest.raises(
        InputError, match=r"choice: max_gen_toks is 3, but the task generates nothing"
    ):
        LmEvalTask("choice", include=[tasks], max_gen_toks=3)


def test_a_likelihood_teaches_its_text(tasks: Path, live: HuggingFaceEngine) -> None:
    """What it is scored by is what is taught: bits a byte of the text, or the lead of each of its tokens."""
    rolling = LmEvalTask("rolling", include=[tasks])
    rolling.bind(live)
    assert rolling.teaches == "" and "bits_per_byte,none" in rolling.taught
    ids = [item.id for item in rolling.items()]
    scored = rolling.score(ids)
    bits = [
        -sum(each.nats for each in live.loglikelihood(lesson.requests)) / math.log(2) / lesson.size
        for lesson in rolling.lessons(ids)
        if isinstance(lesson, Text)
    ]
    told = [
        rolling.aggregate("bits_per_byte", [v]) for v in scored["metrics"]["bits_per_byte,none"]
    ]
    assert bits == pytest.approx(told, rel=1e-5)
    greedy = LmEvalTask("likelihood", include=[tasks])
    greedy.bind(live)
    assert greedy.teaches == "" and "acc,none" in greedy.taught
    assert "perplexity,none" not in greedy.taught
    item = greedy.items()[0].id
    [lesson] = greedy.lessons([item])
    assert isinstance(lesson, Written) and not lesson.ends
    assert live.tokenizer.decode(lesson.request.continuation).startswith("=")
