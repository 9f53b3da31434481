"""Bits per byte of running text: the smoothest score there is, and it needs no task.

    bits per byte = -(sum of log-likelihoods of all passages) / (ln 2 * sum of their UTF-8 bytes)

Passages are scored whole, in windows, as lm-eval's ``loglikelihood_rolling``: every token is
predicted once, from at most ``max_length`` tokens before it; the first from a BOS (or EOS) token.
Log-probabilities are taken in float32 whatever the model's dtype, at the scored tokens only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.engines import Engine, Request
from evomerge.errors import InputError
from evomerge.passages import read_passages
from evomerge.scorers.lessons import Lesson, Text
from evomerge.scorers.metrics import Named
from evomerge.suite.scorer import SIGNALS, Item, NonFinite, Responses

_METRIC = "bits_per_byte"
_SIGNAL = "target_nats"


class BitsPerByte(Named):
    """Bits per byte on a text file; lower is better.

    ``path`` is a ``.jsonl`` file, one object a line with the passage in ``field`` (and, if it has
    one, the original's name in ``source_id``), or any other text file, passages separated by
    blank lines. Items are named by passage number, from 0. An item's value is ``[nats, bytes]``.

    Raises:
        InputError: the file is absent, empty or malformed, with file and line.
    """

    def __init__(self, name: str, path: str | Path, *, field: str = "text") -> None:
        self.name = name
        self.metrics: dict[str, bool] = {_METRIC: False, _SIGNAL: SIGNALS[_SIGNAL]}
        self._path = Path(path)
        self._passages, sources = _read(Path(path), field)
        self._items = [
            Item(str(row), source, text=passage)
            for row, (source, passage) in enumerate(zip(sources, self._passages, strict=True))
        ]
        self._engine: Engine | None = None
        self._windows: dict[int, list[Request]] = {}

    @property
    def fingerprint(self) -> str:
        """Of the passages."""
        text = json.dumps(self._passages)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def files(self) -> dict[str, str]:
        """The file of the passages -> sha256 of them."""
        return {self._path.name: self.fingerprint}

    @property
    def sources(self) -> dict[str, Path]:
        return {str(self._path): self._path}

    def items(self) -> list[Item]:
        return list(self._items)

    def bind(self, engine: Engine) -> None:
        self._engine = engine
        self._windows.clear()

    def score(self, ids: Sequence[str]) -> Responses:
        """Nats of each passage. Batches are laid out from the set of ids alone."""
        if self._engine is None:
            raise RuntimeError(f"{self.name}: bind a model before scoring")
        engine = self._engine
        before = engine.tokens
        rows = {id: self._row(id) for id in ids}
        windows = {row: self._cut(row) for row in sorted(rows.values())}
        answers = iter(engine.loglikelihood([w for each in windows.values() for w in each]))
        nats = {row: -sum(next(answers).nats for _ in each) for row, each in windows.items()}
        for id, row in rows.items():
            if not math.isfinite(nats[row]):
                raise NonFinite(self.name, id)
        values = [[nats[row], len(self._passages[row].encode())] for row in rows.values()]
        targets = [sum(len(w.continuation) for w in windows[row]) for row in rows.values()]
        rates = [
            nats / count if count else None
            for (nats, _), count in zip(values, targets, strict=True)
        ]
        return {
            "items": list(ids),
            "responses": [nats for nats, _ in values],
            "metrics": {_METRIC: values, _SIGNAL: rates},
            "tokens": engine.tokens - before,
        }

    @property
    def teaches(self) -> str:
        """Its items teach: bits per byte are their own bounded loss."""
        return ""

    @property
    def taught(self) -> Sequence[str]:
        """Bits per byte."""
        return (_METRIC,)

    def lessons(
        self, ids: Sequence[str], answers: Mapping[str, str] | None = None
    ) -> list[Lesson | None]:
        """Every passage, in windows."""
        rows = [self._row(id) for id in ids]
        return [Text(tuple(self._cut(row)), len(self._passages[row].encode())) for row in rows]

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Bits of all passages over bytes of all passages; of ``target_nats``, the mean. None is skipped."""
        applying = [value for value in values if value is not None]
        if self.resolve_metric(metric) == _METRIC:
            total = sum(value[0] for value in applying) / math.log(2)
            size = sum(value[1] for value in applying)
        else:
            total, size = sum(applying), len(applying)
        result = total / size if size else math.nan
        if not math.isfinite(result):
            raise NonFinite(self.name)
        return result

    def _row(self, id: str) -> int:
        if not id.isdecimal() or int(id) >= len(self._items):
            raise InputError(f"{self.name}: no passage {id!r} among its {len(self._items)}")
        return int(id)

    def _cut(self, row: int) -> list[Request]:
        """The windows of a passage, tokenized once."""
        assert self._engine is not None
        if row not in self._windows:
            tokens = _encode(self._engine.tokenizer, self._passages[row])
            cut = windows(tokens, _prefix(self._engine.tokenizer), self._engine.max_length)
            self._windows[row] = [
                Request(inputs[: len(inputs) - len(targets) + 1], targets)
                for inputs, targets in cut
            ]
        return self._windows[row]


def windows(
    tokens: Sequence[int], prefix: int, length: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(inputs, targets) pairs that predict every token once; inputs are at most ``length`` long.

    The last window is filled up with tokens that were predicted before, as context.
    Source: ``lm_eval.utils.get_rolling_token_windows`` with ``context_len=1``.
    """
    stream = (prefix, *tokens)
    for start in range(0, len(tokens), length):
        end = min(start + length, len(tokens))
        yield stream[max(0, end - length) : end], stream[start + 1 : end + 1]


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens with the tokenizer's own special tokens, unless the text starts with BOS already."""
    starts = text.startswith(tokenizer.decode(_prefix(tokenizer)))
    tokens: list[int] = tokenizer.encode(text, **({"add_special_tokens": False} if starts else {}))
    return tokens


def _prefix(tokenizer: Any) -> int:
    """What the first token is predicted from: BOS, or EOS for a tokenizer without BOS."""
    bos = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if bos is None else bos)


def _read(path: Path, field: str) -> tuple[list[str], list[str]]:
    """The passages of a file, and the source of each."""
    pairs = read_passages(path, field)
    passages = [passage for passage, _ in pairs]
    return passages, [source or str(row) for row, (_, source) in enumerate(pairs)]
