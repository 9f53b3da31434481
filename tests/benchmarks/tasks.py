"""Synthetic lm-eval tasks for benchmarks: a folder of task YAMLs and items, the same in every run.

Texts are lower-case words for a tokenizer of single bytes, so lengths in characters are lengths in
tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHOOSE = {"choose": 100, "few": 40, "prepared": 125}  # tasks of four-choice questions -> how many
WRITE = 10  # prompts of `write_equal` and of `write_mixed`
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONTEXT = (100, 160)  # tokens of a question, least and most
CHOICE = (3, 6)  # tokens of a choice
EQUAL = 32  # tokens of each answer of `write_equal`: its cap
MIXED = (4, 64)  # tokens of the answers of `write_mixed`, least and most
FIRST, LAST = "!", "~"  # what a counting model counts through; see `scoring.count`

FOUR_CHOICES = """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """\
output_type: generate_until
doc_to_target: answer
generation_kwargs: {until: [%s], do_sample: false, max_gen_toks: %d}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write(folder: Path) -> Path:
    """Write the tasks into ``folder``: those of ``CHOOSE``, ``write_equal`` and ``write_mixed``.

    Every answer of ``write_equal`` hits the cap; those of ``write_mixed``, by a model that counts,
    have lengths that are evenly spread and end with a stop sequence.
    """
    folder.mkdir()
    for name, count in CHOOSE.items():
        _write(folder, name, FOUR_CHOICES, [_question(f"{name} {n}") for n in range(count)])
    prompts = [_text(f"write {n}", *CONTEXT) for n in range(WRITE)]
    _write(folder, "write_equal", WRITTEN % (r'"\n"', EQUAL), [_prompt(text) for text in prompts])
    shortest, longest = MIXED
    lengths = [shortest + (longest - shortest) * n // (WRITE - 1) for n in range(WRITE)]
    random.Random("mixed").shuffle(lengths)
    before = [chr(ord(LAST) - length - 1) for length in lengths]
    mixed = [_prompt(text + last) for text, last in zip(prompts, before, strict=True)]
    _write(folder, "write_mixed", WRITTEN % (json.dumps(LAST), longest + 1), mixed)
    return folder


def _write(folder: Path, name: str, kind: str, items: Sequence[Mapping[str, Any]]) -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {file}}}}}\n"
        "test_split: test\n"
        "num_fewshot: 0\n"
        'doc_to_text: "{{question}}"\n'
        'target_delimiter: ""\n' + kind
    )


def _question(key: str) -> dict[str, Any]:
    draws = random.Random(key)
    choices = ["".join(draws.choices(LETTERS, k=draws.randint(*CHOICE))) for _ in range(4)]
    return {"question": _text(key, *CONTEXT), "choices": choices, "answer": draws.randrange(4)}


def _prompt(text: str) -> dict[str, str]:
    return {"question": text, "answer": ""}


def _text(key: str, least: int, most: int) -> str:
    """Words that end in a colon, of so many characters."""
    draws = random.Random(f"text {key}")
    length = draws.randint(least, most)
    words = ""
    while len(words) < length:
        words += "".join(draws.choices(LETTERS, k=draws.randint(2, 9))) + " "
    return words[: length - 2] + "a:"
