"""All kinds of scorers hold to one contract."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.scorers import LiveScorer
from evomerge.scorers.function import PythonFunction
from evomerge.scorers.lm_eval import LmEvalTask
from evomerge.scorers.perplexity import BitsPerByte
from evomerge.scorers.retrieval import Retrieval
from evomerge.scorers.reward import Preferences
from evomerge.testing.scorers import ScorerContract


class Contract(ScorerContract):
    @pytest.fixture
    def engine(self, live: HuggingFaceEngine) -> HuggingFaceEngine:
        return live


class TestChoices(Contract):
    @pytest.fixture(autouse=True)
    def folder(self, tasks: Path) -> None:
        self.tasks = tasks

    def make(self) -> LiveScorer:
        return LmEvalTask("drawn", include=[self.tasks])

    def expected(self, metric: str, values: Sequence[Any]) -> float:
        if metric == "brier_score,none":  # one number an item, no mean of them: lm-eval's own
            values = [_brier(*value) for value in values]
        return super().expected(metric, values)


class TestTexts(Contract):
    @pytest.fixture(autouse=True)
    def folder(self, tasks: Path) -> None:
        self.tasks = tasks

    def make(self) -> LiveScorer:
        return LmEvalTask("generate", include=[self.tasks])


class TestBitsPerByte(Contract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.file = tmp_path / "text.txt"
        self.file.write_text("\n\n".join(f"Passage {n}. " * n for n in range(1, 7)))

    def make(self) -> LiveScorer:
        return BitsPerByte("text", self.file)

    def expected(self, metric: str, values: Sequence[Any]) -> float:
        if metric != "bits_per_byte":
            return super().expected(metric, values)
        nats, sizes = zip(*values, strict=True)
        return sum(nats) / math.log(2) / sum(sizes)


class TestPreferences(ScorerContract):
    @pytest.fixture(autouse=True)
    def folder(self, pairs: Path) -> None:
        self.file = pairs

    @pytest.fixture
    def engine(self, judge: HuggingFaceEngine) -> HuggingFaceEngine:
        return judge

    def make(self) -> LiveScorer:
        return Preferences("pairs", self.file)


class TestRetrieval(Contract):
    @pytest.fixture(autouse=True)
    def folder(self, queries: Path) -> None:
        self.file = queries

    def make(self) -> LiveScorer:
        return Retrieval("queries", self.file, k=2, pooling="mean")


class TestFunction(Contract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "contract_fitness.py").write_text(
            "def norm(model, tokenizer, *, split):\n"
            "    return {'norm': float(model.lm_head.weight.detach().norm()), 'split': len(split)}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "contract_fitness", raising=False)

    def make(self) -> LiveScorer:
        return PythonFunction("mine", "contract_fitness:norm")


def _brier(gold: int, predictions: Sequence[float]) -> float:
    return sum((p - (n == gold)) ** 2 for n, p in enumerate(predictions))
