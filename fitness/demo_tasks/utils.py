"""Loads a demo task's items: the JSON lines beside this file, as lm-eval's `test` split."""

import json
from pathlib import Path
from typing import Any

import datasets


def load(task: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The items of <task>.jsonl in this folder, whatever the working directory."""
    path = Path(__file__).resolve().parent / f"{task}.jsonl"
    with path.open(encoding="utf-8") as lines:
        return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}
