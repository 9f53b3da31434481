"""Tasks that are a class of their own decide what is asked, whatever an output type says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lm_eval.models.utils import normalize_gen_kwargs

from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.scorers.lm_eval import LmEvalTask

CODE = """
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

ASKED = {asked}


class Sums(ConfigurableTask):
    def __init__(self, config=None):
        data = {{"data_files": {{"test": {data!r}}}}}
        super().__init__(config={{"dataset_path": "json", "dataset_kwargs": data, "metadata": {{"version": 1}}}})

    def has_training_docs(self): return False
    def has_validation_docs(self): return False
    def has_test_docs(self): return True
    def test_docs(self): return self.dataset["test"]
    def doc_to_text(self, doc): return doc["question"] + "="
    def doc_to_target(self, doc): return doc["answer"]

    def construct_requests(self, doc, ctx, chat_template=None, apply_chat_template=False, **kwargs):
        arguments = {{"loglikelihood": (ctx, doc["answer"]), "generate_until": (ctx, {{"until": ["q"]}})}}
        return [
            Instance(request_type=kind, doc=doc, arguments=arguments[kind], idx=0, **kwargs) for kind in ASKED
        ]

    def process_results(self, doc, results):
        return {{"asked": float(len(results))}}

    def aggregation(self): return {{"asked": lambda values: sum(values) / len(values)}}
    def higher_is_better(self): return {{"asked": True}}
"""


def sums(folder: Path, *asked: str, **options: int) -> LmEvalTask:
    """A task whose class asks so, though its output type is lm-eval's default: to write texts."""
    data = folder / "sums.jsonl"
    rows = [{"question": f"{n}+1", "answer": str(n + 1)} for n in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = f"sums_{len(asked)}_{asked[0]}"
    (folder / f"{name}.py").write_text(CODE.format(asked=asked, data=str(data)))
    (folder / f"{name}.yaml").write_text(f"task: {name}\nclass: !function {name}.Sums\n")
    return LmEvalTask(name, include=[folder], **options)


@pytest.fixture
def short(live: HuggingFaceEngine) -> HuggingFaceEngine:
    """A model with less room than lm-eval's default answer takes."""
    live.max_length = 64
    assert normalize_gen_kwargs({}, 256)["max_gen_toks"] > live.max_length
    return live


def test_log_likelihoods_alone_need_no_room_for_answers(
    tmp_path: Path, short: HuggingFaceEngine
) -> None:
    for options in ({}, {"max_gen_toks": 300}):
        task = sums(tmp_path, "loglikelihood", **options)
        assert task._task.OUTPUT_TYPE == "generate_until"
        task.bind(short)
        scored = task.score(["0", "3"])
        assert [len(response) for response in scored["responses"]] == [1, 1]
        assert scored["metrics"] == {"asked,none": [1.0, 1.0]}
        idle = [f"{task.name}: max_gen_toks is 300, but it generates nothing"]
        assert task.prompt_notes(short.tokenizer) == (idle if options else [])
        assert "code of its own" in task.teaches


def test_what_it_writes_keeps_to_the_cap(tmp_path: Path, short: HuggingFaceEngine) -> None:
    both = ("generate_until", "loglikelihood")
    with pytest.raises(InputError, match=r"generates up to 256 tokens.*whole length is 64"):
        sums(tmp_path, *both).bind(short)
    task = sums(tmp_path, *both, max_gen_toks=5)
    task.bind(short)
    lengths = task.score(["0", "1"])["metrics"]["length"]
    assert max(lengths) <= 5
