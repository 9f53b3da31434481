"""lm-eval tasks of every output type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.testing.models import byte_tokenizer
from evomerge.testing.zoo import tiny_config

torch.set_num_threads(1)


def _write(folder: Path, name: str, yaml: str, **splits: list[dict[str, Any]]) -> None:
    lines = [f"task: {name}", "dataset_path: json", "dataset_kwargs:", "  data_files:"]
    for split, rows in splits.items():
        file = folder / f"{name}-{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        lines.append(f"    {split}: {file}")
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n" + yaml, encoding="utf-8")


def _sums(count: int, seed: int) -> Iterator[dict[str, Any]]:
    draws = np.random.default_rng(seed).integers(0, 30, size=(count, 2)).tolist()
    for number, (a, b) in enumerate(draws):
        wrong = a + b + 1 + number % 7
        choices = [str(a + b), str(wrong), "none of these"]
        yield {
            "name": f"sum-{seed}-{number}",
            "question": f"{a}+{b}",
            "answer": str(a + b),
            "choices": choices if number % 2 else choices[::-1],
            "label": 0 if number % 2 else 2,
        }


CHOICE = """
output_type: multiple_choice
validation_split: validation
fewshot_split: validation
test_split: test
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: label
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
"""

LIKELIHOOD = """
output_type: loglikelihood
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "={{answer}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""

ROLLING = """
output_type: loglikelihood_rolling
validation_split: validation
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""

GENERATE = """
output_type: generate_until
fewshot_split: validation
test_split: test
num_fewshot: 2
fewshot_config: {sampler: first_n}
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 12}
filter_list:
  - name: strict
    filter:
      - {function: regex, regex_pattern: "^ ?(\\\\d+)$"}
      - {function: take_first}
  - name: flexible
    filter:
      - {function: regex, regex_pattern: "(.)", group_select: -1}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""

SAMPLE = GENERATE.replace("do_sample: false", "do_sample: true, temperature: 0.9").replace(
    "num_fewshot: 2", "num_fewshot: 0\nrepeats: 2"
)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of task YAMLs with their data: choice, drawn, likelihood, rolling, generate, ..."""
    folder = tmp_path_factory.mktemp("tasks")
    test, shots = list(_sums(24, 1)), list(_sums(8, 2))
    texts = [{"text": "The cat sat on the mat. " * n, "source": "corpus"} for n in range(1, 25, 3)]
    _write(folder, "choice", CHOICE, validation=shots, test=test)
    _write(folder, "drawn", CHOICE + "num_fewshot: 2\n", validation=shots, test=test)
    _write(folder, "likelihood", LIKELIHOOD, test=test)
    _write(folder, "rolling", ROLLING, validation=texts)
    _write(folder, "generate", GENERATE, validation=shots, test=test)
    _write(folder, "sample", SAMPLE, validation=shots, test=test)
    return folder


@pytest.fixture
def judge() -> HuggingFaceEngine:
    """An engine that runs a reward model, fresh per test."""
    from transformers import LlamaForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = tiny_config("llama", num_labels=1, initializer_range=0.3)
        model = LlamaForSequenceClassification(config).eval().requires_grad_(False)
    return HuggingFaceEngine(model, byte_tokenizer())


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Preferences in every form that they may have."""
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}]
    answer = [{"role": "assistant", "content": "A friend."}]
    rude = [{"role": "assistant", "content": "None of your business, and now go away."}]
    rows = [
        {"prompt": "2+2", "chosen": "4", "rejected": "5", "subset": "math"},
        {"prompt": "3+3?", "chosen": "6", "rejected": ["7", "It is nine.", "33"], "source_id": "s"},
        {"prompt": talk, "chosen": "A helper.", "rejected": "Guess!"},
        {"prompt": talk, "chosen": answer, "rejected": [rude, "Nobody."]},
        {"chosen": talk + answer, "rejected": talk + rude},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    """Queries, each with one or two right texts and some others."""
    rows = [
        {
            "query": f"What is number {n}?",
            "positives": [f"It is {n}.", f"Surely {n}"][: 1 + n % 2],
            "negatives": [
                f"{word}: {'but ' * m}nothing." for m, word in enumerate(("Not", "Perhaps", "Else"))
            ],
        }
        for n in range(5)
    ]
    file = tmp_path / "queries.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
