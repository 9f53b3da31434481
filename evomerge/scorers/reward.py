"""Whether a reward model prefers the better answer: pairwise accuracy, as reward benchmarks have it.

    accuracy = share of items whose chosen answer is rewarded above every rejected one
    margin   = r(chosen) - max r(rejected): under Bradley and Terry's model the log-odds of the right choice, in nats

The reward of an answer is the one number that a sequence classifier gives to the conversation, rendered by the
chat template of the tokenizer.

Paper: Lambert et al., "RewardBench: evaluating reward models for language modeling",
    https://arxiv.org/abs/2403.13787.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config import shown
from evomerge.engines import Engine
from evomerge.errors import InputError
from evomerge.objects import Row, check_keys, read_objects
from evomerge.scorers.metrics import Means
from evomerge.scorers.outputs import Tokens, module_of, read_rows
from evomerge.suite.scorer import SIGNALS, Item, NonFinite, Responses
from evomerge.visible import first_line

if TYPE_CHECKING:
    import torch

Talk = list[dict[str, str]]  # messages, as chat templates take them
CLASSIFIER = "ForSequenceClassification"  # how classes end that give a number to a text
_METRIC, _SIGNAL = "accuracy", "margin"
_KEYS = ("prompt", "chosen", "rejected", "source_id", "subset")  # of a line


@dataclass(frozen=True)
class _Pair:
    """A question with answers: ``talks[0]`` ends in the better one."""

    talks: tuple[Talk, ...]
    item: Item


class Preferences(Means):
    """Preference accuracy of a reward model on a file of JSON lines; higher is better.

    A line has ``prompt``, a text or messages; ``chosen``, the better answer, and ``rejected``, another or a list
    of others, each a text or messages. Without ``prompt`` an answer is a whole conversation. ``source_id`` names
    the original, ``subset`` what samples are spread over. Items are named by the number of their line, from 0.
    Other keys are refused. An item's response is the rewards, the chosen one's first.

    Raises:
        InputError: the file is absent, empty or malformed, with file and line.
    """

    def __init__(self, name: str, path: str | Path) -> None:
        self.name = name
        self.metrics: dict[str, bool] = {_METRIC: True, _SIGNAL: SIGNALS[_SIGNAL]}
        self._path = Path(path)
        rows = read_objects(Path(path))
        self._pairs = {
            str(n): _Pair(_talks(row, where), _item(n, row)) for n, (where, row) in enumerate(rows)
        }
        self._engine: Engine | None = None
        self._rendered: dict[str, tuple[Tokens, ...]] = {}

    @property
    def fingerprint(self) -> str:
        """Of the conversations."""
        text = json.dumps([pair.talks for pair in self._pairs.values()])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def files(self) -> dict[str, str]:
        """The file -> sha256 of the conversations."""
        return {self._path.name: self.fingerprint}

    @property
    def sources(self) -> dict[str, Path]:
        return {str(self._path): self._path}

    def items(self) -> list[Item]:
        return [pair.item for pair in self._pairs.values()]

    def bind(self, engine: Engine) -> None:
        """Take the engine whose module gives rewards.

        Raises:
            InputError: it gives none, or its tokenizer has no chat template.
        """
        module = module_of(self.name, engine)
        if why := why_no_reward(type(module).__name__, module.config.num_labels):
            raise InputError(f"{self.name}: {why}")
        if not engine.tokenizer.chat_template:
            raise InputError(f"{self.name}: the tokenizer has no chat template to render with")
        self._engine = engine
        self._rendered.clear()

    def score(self, ids: Sequence[str]) -> Responses:
        """Rewards of the answers to each item."""
        if self._engine is None:
            raise RuntimeError(f"{self.name}: bind a model before scoring")
        rows = {id: self._rows(id) for id in ids}
        module = module_of(self.name, self._engine)

        def read(tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = module(input_ids=tokens).logits
            return logits[:, 0]

        every = [row for each in rows.values() for row in each]
        # without a token that fills rows up, transformers' classifiers refuse several, even of one length
        single = module.config.get_text_config().pad_token_id is None
        found = read_rows(every, read, self._engine.device, single=single)
        rewards = {id: [float(found[row]) for row in each] for id, each in rows.items()}
        for id, values in rewards.items():
            if not all(map(math.isfinite, values)):
                raise NonFinite(self.name, id)
        margins = [values[0] - max(values[1:]) for values in rewards.values()]
        return {
            "items": list(ids),
            "responses": list(rewards.values()),
            "metrics": {_METRIC: [float(m > 0) for m in margins], _SIGNAL: margins},
            "tokens": sum(map(len, found)),
        }

    def _rows(self, id: str) -> tuple[Tokens, ...]:
        """The conversations of an item as tokens, rendered once; a long one loses its beginning."""
        assert self._engine is not None
        if id not in self._pairs:
            raise InputError(f"{self.name}: no item {id!r} among its {len(self._pairs)}")
        if id not in self._rendered:
            tokenizer, length = self._engine.tokenizer, self._engine.max_length
            rows = []
            for talk in self._pairs[id].talks:
                try:
                    text = tokenizer.apply_chat_template(talk, tokenize=False)
                except Exception as error:  # whatever a template raises
                    raise InputError(
                        f"{self.name}, item {id}: the chat template refuses it: {first_line(error)}"
                    ) from None
                tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
                rows.append(tuple(tokens[-length:]))
            self._rendered[id] = tuple(rows)
        return self._rendered[id]


def why_no_reward(architecture: str, labels: int) -> str:
    """Why a model of a class, with so many labels, gives no rewards; empty if it does."""
    if not architecture.endswith(CLASSIFIER):
        return (
            f"a reward is what a sequence classifier gives (...{CLASSIFIER}), and {architecture} is none; name a "
            "reward model as the one whose tokenizer, and so whose kind, merges have"
        )
    if labels != 1:
        return f"a reward is one number, and this {architecture} gives {labels} (num_labels in config.json)"
    return ""


def _item(number: int, row: Row) -> Item:
    source, subset = row.get("source_id"), row.get("subset")
    text = row.get("prompt", row.get("chosen"))
    return Item(
        str(number),
        str(number if source is None else source),
        stratum="" if subset is None else str(subset),
        text=text if isinstance(text, str) else json.dumps(text, ensure_ascii=False),
    )


def _talks(row: Row, where: str) -> tuple[Talk, ...]:
    """The conversations of a line, that with the chosen answer first."""
    check_keys(row, _KEYS, where)
    prompt = _said(row["prompt"], "user", "prompt", where) if "prompt" in row else None
    rejected = row.get("rejected")
    several = isinstance(rejected, list) and not _is_talk(rejected)
    others = rejected if several and rejected else [rejected]
    answers = [("chosen", row.get("chosen")), *(("rejected", other) for other in others)]
    talks = []
    for key, answer in answers:
        if prompt is None and not _is_talk(answer):
            raise InputError(
                f"{where}: {key}: expected a conversation, as there is no prompt, found {shown(answer)}"
            )
        talks.append([*(prompt or ()), *_said(answer, "assistant", key, where)])
    return tuple(talks)


def _said(value: Any, role: str, key: str, where: str) -> Talk:
    """Messages, or the one of ``role`` that a text is."""
    if isinstance(value, str) and value:
        return [{"role": role, "content": value}]
    if _is_talk(value):
        return [{"role": each["role"], "content": each["content"]} for each in value]
    raise InputError(
        f"{where}: {key}: expected a text, or a list of messages with role and content, found {shown(value)}"
    )


def _is_talk(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(each, Mapping)
            and isinstance(each.get("role"), str)
            and isinstance(each.get("content"), str)
            for each in value
        )
    )
