"""A planted artefact: a length cap that a parent with long answers runs into, and merges do not.

The parent is the embedded chat model, taught to restate the question twice. Its answers are right;
where the cap cuts them, a merge that answers as briefly as the base seems better than it is.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import config
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.commands.search import search
from evomerge.demo.facts import all_facts, dialogue_answer, dialogue_prompt
from evomerge.judging.table import Row, Table
from evomerge.report.text import table_notes

NUMBERS = [fact for fact in all_facts() if fact.kind == "number"]
STYLE = "equals"
CUTTING, ENOUGH = 16, 32  # tokens

TASK = """\
task: spell
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: prompt
doc_to_target: target
generation_kwargs: {{until: ["<|end|>"], do_sample: false, max_gen_toks: {cap}}}
filter_list:
- name: name
  filter: [{{function: regex, regex_pattern: ": ([^:]*)\\\\."}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat parent that says "= English 57 = English 57: fifty-seven."."""
    folder = Checkpoint.open(ModelRef("embedded:chat")).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    lessons = []
    for fact in NUMBERS:
        answer = dialogue_answer(fact, "en", STYLE)
        texts = dialogue_prompt(fact, "en", STYLE), f"= English {fact.key} {answer}<|end|>"
        lessons.append([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    size = max(len(question) + len(answer) for question, answer in lessons)
    tokens = torch.tensor([(q + a + [0] * size)[:size] for q, a in lessons])
    labels = torch.tensor([([-100] * len(q) + a + [-100] * size)[:size] for q, a in lessons])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(20):
        model(input_ids=tokens[step % 3 :: 3], labels=labels[step % 3 :: 3]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    out = tmp_path_factory.mktemp("wordy")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def table_of(wordy: Path, folder: Path, cap: int) -> Table:
    """What a small search with this cap ends in."""
    folder.mkdir()
    rows = [
        {
            "id": fact.source,
            "prompt": dialogue_prompt(fact, "en", STYLE),
            "target": fact.names["en"],
        }
        for fact in NUMBERS
    ]
    data = folder / "numbers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "spell.yaml").write_text(TASK.format(data=data, cap=cap))
    run = {
        "models": {
            "base": "embedded:base",
            "sources": {"chat": str(wordy), "sea": "embedded:sea"},
            "tokenizer": "chat",
        },
        "space": {"methods": ["task_arithmetic"], "start": ["uniform"]},
        "fitness": {
            "include": ["."],
            "objectives": {"spell": {"task": "spell", "metric": "exact_match"}},
            "combine": "mean",
        },
        "optimizer": {"name": "random", "population": 2},
        "budget": {"evaluations": 6},
    }
    (folder / "run.yaml").write_text(config.dump(run))
    return search(folder).table


def row_of(table: Table, label: str) -> Row:
    return next(row for row in table.rows if label in row.label)


def lead(table: Table) -> float:
    """By how much the uniform soup seems better than the chat parent."""
    soup, parent = (row_of(table, label).score.value for label in ("uniform", "chat"))
    return float(soup - parent)


def test_a_lead_that_a_cap_makes_is_invalid_and_none_is_without_it(
    wordy: Path, tmp_path: Path
) -> None:
    cut = table_of(wordy, tmp_path / "cut", CUTTING)
    whole = table_of(wordy, tmp_path / "whole", ENOUGH)
    # how well the parent learnt it differs between processors; what the cap adds does not
    assert lead(cut) > max(0.0, lead(whole)) + 0.05
    (reason,) = row_of(cut, "uniform").invalid
    assert "chat's answers are cut at the length cap" in reason and "raise max_gen_toks" in reason
    assert any(
        f"INVALID: {row_of(cut, 'uniform').label}: spell" in line for line in table_notes(cut)
    )
    assert not any(row.invalid for row in whole.rows)
