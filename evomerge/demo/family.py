"""Build the demo's family: a base model and two parents continually trained from it.

The base sees every fact in English, but the other three languages only for the seed facts, and
dialogue only in the seed styles.  The `chat` parent then sees English dialogue only (every fact,
every style), the `sea` parent Indonesian, Thai and Vietnamese plain lines only (every fact).
Dialogue in those languages about any other fact in any other style is held out: no model ever
sees it, each parent has half of what it takes, and a well-chosen merge has both halves.

Training is seeded and runs for a fixed number of steps on one thread, so the same packages give
the same models.  Run `python -m evomerge.demo.family --help`.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from evomerge.demo import facts
from evomerge.demo.facts import (
    ASSISTANT,
    END,
    LANGUAGES,
    PAD,
    SEA,
    SEED_STYLES,
    STYLES,
    USER,
    Fact,
)
from evomerge.demo.items import write_items
from evomerge.demo.training import IGNORED, step

VOCABULARY = 800
CONTEXT = 128  # tokens; the longest line has about 25
PIECES = r"\p{N}| ?[\p{L}\p{M}]+|\n| ?[^\s\p{L}\p{M}\p{N}]"  # digits stay single
BATCH = 64  # lines per step
SEED = 1

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Stage:
    """One training run: how many steps, how fast, on which mixture of line kinds (shares)."""

    steps: int
    learning_rate: float
    mixture: Mapping[str, float]


STAGES: Mapping[str, Stage] = {
    "base": Stage(
        600,
        3e-3,
        {
            "english plain": 0.20,
            "sea seed plain": 0.15,
            "english seed dialogue": 0.20,
            "sea seed dialogue": 0.25,
            "seed echo": 0.20,
        },
    ),
    "chat": Stage(220, 5e-4, {"english dialogue": 0.75, "echo": 0.25}),
    "sea": Stage(240, 4e-4, {"sea plain": 1.0}),
}


def make_lines() -> dict[str, list[str]]:
    """Line kind -> every training line of it; "seed" dialogue and echo are in the seed styles."""
    everything = facts.all_facts()
    seeds = [fact for fact in everything if fact.is_seed]

    def plain(of: Sequence[Fact], languages: Sequence[str]) -> list[str]:
        return [line for f in of for lang in languages for line in facts.plain_lines(f, lang)]

    def spoken(
        write: Callable[[Fact, str, str], str],
        of: Sequence[Fact],
        languages: Iterable[str],
        styles: Iterable[str],
    ) -> list[str]:
        return [write(f, *each) for f in of for each in product(languages, styles)]

    dialogue, echo = facts.dialogue_line, facts.echo_line
    return {
        "english plain": plain(everything, ["en"]),
        "sea seed plain": plain(seeds, SEA),
        "sea plain": plain(everything, SEA),
        "english seed dialogue": spoken(dialogue, everything, ["en"], SEED_STYLES),
        "english dialogue": spoken(dialogue, everything, ["en"], STYLES),
        "sea seed dialogue": spoken(dialogue, seeds, SEA, SEED_STYLES),
        "seed echo": spoken(echo, everything, LANGUAGES, SEED_STYLES),
        "echo": spoken(echo, everything, LANGUAGES, STYLES),
    }


def make_tokenizer(lines: Mapping[str, Sequence[str]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the training lines; digits stay single so that numbers compose."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [PAD, END, USER, ASSISTANT]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((line for kind in lines.values() for line in kind), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A randomly initialised Llama of about 0.9 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(
    tokenizer: PreTrainedTokenizerFast, lines: Mapping[str, Sequence[str]]
) -> dict[str, torch.Tensor]:
    """Line kind -> token ids, one row a line, padded on the right."""
    pad = tokenizer.pad_token_id
    rows = {}
    for kind, texts in lines.items():
        ids = [torch.tensor(row) for row in tokenizer(list(texts))["input_ids"]]
        rows[kind] = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad)
    return rows


def draw_batch(
    rows: Mapping[str, torch.Tensor], mixture: Mapping[str, float], pad: int, rng: torch.Generator
) -> torch.Tensor:
    """BATCH lines, each of a kind drawn from the mixture, as narrow as its longest line."""
    shares = torch.tensor(list(mixture.values()))
    counts = torch.bincount(
        torch.multinomial(shares, BATCH, replacement=True, generator=rng), minlength=len(shares)
    )
    width = max(rows[kind].shape[1] for kind in mixture)
    parts = []
    for kind, count in zip(mixture, counts.tolist(), strict=True):
        pick = torch.randint(len(rows[kind]), (count,), generator=rng)
        part = rows[kind][pick]
        parts.append(torch.nn.functional.pad(part, (0, width - part.shape[1]), value=pad))
    batch = torch.cat(parts)
    longest = int((batch != pad).sum(dim=1).max())
    return batch[:, :longest]


def train(
    model: LlamaForCausalLM,
    rows: Mapping[str, torch.Tensor],
    stage: Stage,
    report: Callable[[int, float], None],
) -> None:
    """Train in place with AdamW, a short warm-up and a cosine to a tenth of the rate."""
    pad = model.config.pad_token_id
    rng = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    warmup = min(100, stage.steps // 10)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, stage.steps - warmup, eta_min=stage.learning_rate / 10
    )
    ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=warmup)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [ramp, cosine], [warmup])
    model.train()
    for number in range(1, stage.steps + 1):
        batch = draw_batch(rows, stage.mixture, pad, rng)
        labels = batch.masked_fill(batch == pad, IGNORED)
        report(number, step(model, batch, labels, optimizer, schedule))
    model.eval()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """An ordinary Hugging Face folder, weights in bfloat16."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.config.dtype = torch.bfloat16
    half.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _progress(name: str, steps: int) -> Callable[[int, float], None]:
    """A line on stderr, redrawn in place on a terminal and written every fifth otherwise."""
    start = time.monotonic()
    every = max(1, steps // (100 if sys.stderr.isatty() else 5))

    def report(step: int, loss: float) -> None:
        if step % every and step != steps:
            return
        spent = time.monotonic() - start
        left = spent / step * (steps - step)
        text = f"{name:<5} step {step}/{steps}  loss {loss:.3f}  {spent:.0f} s, {left:.0f} s left"
        end = "\r" if sys.stderr.isatty() and step != steps else "\n"
        print(text, end=end, file=sys.stderr, flush=True)

    return report


def build_family(out: Path, stages: Mapping[str, Stage] = STAGES) -> None:
    """Train base, chat and sea, and save each as a folder of that name under `out`."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    lines = make_lines()
    tokenizer = make_tokenizer(lines)
    rows = encode(tokenizer, lines)
    base = make_model(tokenizer)
    train(base, rows, stages["base"], _progress("base", stages["base"].steps))
    save(base, tokenizer, out / "base")
    for name in ("chat", "sea"):
        parent = copy.deepcopy(base)
        train(parent, rows, stages[name], _progress(name, stages[name].steps))
        save(parent, tokenizer, out / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild the family, and the items of its tasks when asked."""
    parser = argparse.ArgumentParser(
        prog="python -m evomerge.demo.family",
        description=(
            "Train the demo's three tiny models (base, chat, sea) from scratch, on one thread, "
            "in a few minutes. No download: the training text is made from num2words, Babel "
            "and pycountry."
        ),
        epilog=(
            "example: python -m evomerge.demo.family --out evomerge/demo/models "
            "--tasks fitness/demo_tasks"
        ),
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that receives base/, chat/ and sea/"
    )
    parser.add_argument(
        "--tasks", type=Path, help="also write the tasks' items (<task>.jsonl) into this folder"
    )
    options = parser.parse_args(arguments)
    if options.tasks:
        for task, count in write_items(options.tasks).items():
            print(f"{task}: {count} items", file=sys.stderr)
    build_family(options.out)
    print(f"saved base, chat and sea under {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
