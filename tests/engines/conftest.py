"""One small search, with any engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.commands.search import search

TASKS = Path(__file__).parents[2] / "fitness" / "demo_tasks"
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
  sources: {{chat: embedded:chat, sea: embedded:sea}}
  tokenizer: chat
space: {{methods: [task_arithmetic], start: [uniform]}}
fitness: fitness.yaml
optimizer: {{name: cma, population: {population}}}
budget: {{evaluations: {evaluations}}}
dtype: float32
seed: 0
"""


@pytest.fixture
def run_text() -> str:
    """A ``run.yaml``."""
    return RUN.format(population=4, evaluations=9)


@pytest.fixture
def found_with(tmp_path: Path) -> Callable[..., list[tuple[Any, ...]]]:
    """Candidate, batch, error and values of each evaluation of a search with an engine."""

    def found_with(engine: str, population: int = 4, evaluations: int = 9) -> list[tuple[Any, ...]]:
        folder = tmp_path / engine
        folder.mkdir()
        run = RUN.format(population=population, evaluations=evaluations)
        (folder / "run.yaml").write_text(run)
        (folder / "fitness.yaml").write_text(FITNESS.format(tasks=TASKS, engine=engine))
        search(folder)
        lines = (folder / "journal.jsonl").read_text().splitlines()
        events = [event for event in map(json.loads, lines) if event["event"] == "evaluation"]
        return [(e["candidate"], e["batch"], e["error"], e["values"]) for e in events]

    return found_with
