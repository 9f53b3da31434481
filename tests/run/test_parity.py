"""The winner's journalled answers are what lm-eval itself says of the merged folder, item by item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import merge
from evomerge.commands.search import search
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.record.events import EvaluationLine
from evomerge.record.record import Record
from evomerge.scorers.lm_eval import LmEvalTask
from evomerge.scorers.perplexity import BitsPerByte
from evomerge.suite.scorer import Responses

# How far log-likelihoods may be from lm-eval's, in nats: in bfloat16 its own differ so much between
# batch sizes.
NATS = {"float32": 1e-4, "bfloat16": 0.3}
ANSWERS = """\
task: answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}="
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 8}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@dataclass(frozen=True)
class Finished:
    """A finished run, its winner on disk, and the winner's row and responses on the report split."""

    folder: Path
    merged: Path
    dtype: str
    values: dict[str, float]
    results: dict[str, Responses]


@pytest.fixture(params=["float32", "bfloat16"])
def finished(
    request: pytest.FixtureRequest, run_folder: Callable[..., Path], tmp_path: Path
) -> Finished:
    folder = run_folder(
        dtype=request.param,
        fitness={
            "include": ["."],
            "dtype": request.param,
            "objectives": {
                "sums": {"task": "sums"},
                "answers": {"task": "answers", "metric": "exact_match", "scale": 1.0},
                "text": {"text": "texts.jsonl"},
            },
            "items": {"search": 8, "select": 4, "report": 20, "candidate": 6},
        },
        optimizer={"name": "random", "population": 3},
        budget={"evaluations": 14},
    )
    (folder / "answers.yaml").write_text(ANSWERS.format(file=folder / "sums.jsonl"))
    winner = search(folder).winner
    assert winner is not None
    record = Record(folder)
    merged = merge(record.recipe(winner.provenance["candidate"]), tmp_path / "merged")
    (line,) = (
        line
        for line in record.lines
        if isinstance(line, EvaluationLine)
        and line.batch == len(record.history.batches) - 1
        and line.candidate == winner.provenance["candidate"]
    )
    block = line.block_at()
    assert block is not None and line.values is not None
    with record.open_responses() as store:
        results = store.read(block)
    return Finished(folder, merged, request.param, line.values, results)


@pytest.mark.slow
def test_a_fresh_process_would_score_the_winner_alike(finished: Finished) -> None:
    for name, metric in (("sums", "acc,none"), ("answers", "exact_match,none")):
        compare_with_lm_eval(finished, name, metric)
    model = AutoModelForCausalLM.from_pretrained(finished.merged)
    assert model.dtype == getattr(torch, finished.dtype)
    tokenizer = AutoTokenizer.from_pretrained(finished.merged)
    text = BitsPerByte("text", finished.folder / "texts.jsonl")
    text.bind(HuggingFaceEngine(model.eval(), tokenizer))
    journalled = finished.results["texts.jsonl"]
    assert text.score(journalled["items"]) == journalled


def compare_with_lm_eval(finished: Finished, name: str, metric: str) -> None:
    journalled = finished.results[name]
    row_of = {
        item.id: row for row, item in enumerate(LmEvalTask(name, include=[finished.folder]).items())
    }
    rows = {row_of[id]: at for at, id in enumerate(journalled["items"])}
    assert len(rows) == 20
    result = simple_evaluate(
        model=HFLM(
            pretrained=str(finished.merged), device="cpu", dtype=finished.dtype, batch_size=8
        ),
        tasks=[name],
        task_manager=TaskManager(include_path=str(finished.folder), include_defaults=False),
        samples={name: sorted(rows)},
        bootstrap_iters=0,
    )
    assert result is not None
    logged: Any = result["samples"]
    assert {sample["doc_id"] for sample in logged[name]} == set(rows)
    short = metric.partition(",")[0]
    for sample in logged[name]:
        at = rows[sample["doc_id"]]
        theirs, ours = sample["resps"], journalled["responses"][at]
        if name == "sums":
            for ((their_nats, their_greedy),), ((nats, greedy),) in zip(theirs, ours, strict=True):
                assert nats == pytest.approx(their_nats, abs=NATS[finished.dtype], rel=0)
                assert greedy == their_greedy or finished.dtype == "bfloat16"
        elif finished.dtype == "float32":
            assert ours == theirs
        if finished.dtype == "float32":
            assert sample[short] == journalled["metrics"][metric][at]
    if finished.dtype == "float32":
        assert result["results"][name][metric] == finished.values[name]
