"""vLLM holds to the contract of engines, and searches find what they find with transformers.

Run where it is installed (``make vllm``).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from evomerge.commands.search import search
from evomerge.testing.engines import EngineContract

FITNESS = """\
include: [{tasks}]
engine: {engine}
dtype: float32
objectives:
  chat_sea: {{task: demo_chat_sea}}
  write_sea: {{task: demo_write_sea, metric: exact_match}}
combine: mean
estimator: mean
items: {{search: 24, select: 8, report: 12, candidate: 12}}
"""
RUN = """\
models:
  base: embedded:base
  sources: {chat: embedded:chat, sea: embedded:sea}
  tokenizer: chat
space: {methods: [task_arithmetic], start: [uniform]}
fitness: fitness.yaml
optimizer: {name: cma, population: 5}
budget: {evaluations: 20}
dtype: float32
seed: 0
"""


class TestVLLM(EngineContract):
    engine = "vllm"


@pytest.mark.slow
def test_a_search_finds_what_it_finds_with_transformers(tmp_path: Path) -> None:
    found = {}
    for engine in ("huggingface", "vllm"):
        folder = tmp_path / engine
        folder.mkdir()
        (folder / "run.yaml").write_text(RUN)
        tasks = Path(__file__).parents[2] / "fitness" / "demo_tasks"
        (folder / "fitness.yaml").write_text(FITNESS.format(tasks=tasks, engine=engine))
        search(folder)
        lines = (folder / "journal.jsonl").read_text().splitlines()
        events = [event for event in map(json.loads, lines) if event["event"] == "evaluation"]
        found[engine] = [(e["candidate"], e["batch"], e["error"], e["values"]) for e in events]
    assert found["huggingface"] == found["vllm"]
    assert len({candidate for candidate, *_ in found["vllm"]}) >= 20
