"""What every statistic must hold to, as tests: subclass and name the statistic.

class TestMine(StatisticContract):
    name = "mine"        # as kernels name it; a plugin's entry point counts
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.engines.huggingface.building import build_model
from evomerge.engines.tokenizer import load_tokenizer
from evomerge.merging.blueprint import Blueprint
from evomerge.parents import Parents
from evomerge.parents.statistics import Statistic
from evomerge.registry import STATISTICS

TEXTS = ("one, two, three", "satu dua tiga", "?")


class StatisticContract:
    """Laws of statistics, on the embedded chat model."""

    name: ClassVar[str]

    @pytest.fixture(scope="class")
    def subject(self) -> Statistic:
        """The statistic under test."""
        found: Statistic = STATISTICS.get(self.name)()
        return found

    @pytest.fixture(scope="class")
    def model(self) -> Checkpoint:
        return Checkpoint.open(ModelRef("embedded:chat"))

    @pytest.fixture
    def module(self, model: Checkpoint) -> Any:
        """The live model, in float32."""
        return build_model(Blueprint.of(Parents({"chat": model})), model, "float32", "cpu")

    def collect(self, subject: Statistic, model: Checkpoint, module: Any) -> dict[str, Tensor]:
        """From the texts, which are gone through once, on one thread."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return dict(subject.collect(module, load_tokenizer(model), iter(TEXTS)))
        finally:
            torch.set_num_threads(before)

    def test_it_has_its_name_and_a_version(self, subject: Statistic) -> None:
        assert subject.name == self.name and isinstance(subject.version, int)

    def test_it_gives_what_it_declares(
        self, subject: Statistic, model: Checkpoint, module: Any
    ) -> None:
        found = self.collect(subject, model, module)
        shapes = {name: subject.shape(name, model.entry(name).shape) for name in model.names}
        assert any(shapes.values()), "no parameter has it"
        for name, shape in shapes.items():
            if shape is not None:
                value = found[subject.source(name)]
                assert tuple(value.shape) == shape, name
                assert value.dtype == torch.float32 and value.isfinite().all(), name

    def test_it_leaves_the_model_as_it_was(
        self, subject: Statistic, model: Checkpoint, module: Any
    ) -> None:
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        self.collect(subject, model, module)
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None and not parameter.requires_grad, name
        assert not module.training

    def test_it_gives_the_same_bytes_again(
        self, subject: Statistic, model: Checkpoint, module: Any
    ) -> None:
        first, again = (self.collect(subject, model, module) for _ in range(2))
        assert first.keys() == again.keys()
        assert all(torch.equal(value, again[key]) for key, value in first.items())
