"""Kinship is that of the whole task vectors, also where a sample of them is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.parents import Parents, kinship
from evomerge.parents.kinship import inner_products

SOURCES = ("chat", "sea")


@pytest.fixture
def parents(family: dict[str, Path]) -> Parents:
    return Parents({n: Checkpoint.open(ModelRef(str(path))) for n, path in family.items()})


def whole(parents: Parents, source: str) -> torch.Tensor:
    """The task vector of a source."""
    return torch.cat(
        [
            (
                parents.tensor(source, name).double() - parents.tensor("base", name).double()
            ).flatten()
            for name in parents.frame.names
        ]
    )


def test_it_is_that_of_the_task_vectors(parents: Parents) -> None:
    chat, sea = (whole(parents, source) for source in SOURCES)
    found = inner_products(parents, SOURCES)
    unit = float(chat @ chat + sea @ sea) / 2
    expected = {
        ("chat", "sea"): chat @ sea,
        ("chat", "chat"): chat @ chat,
        ("sea", "sea"): sea @ sea,
    }
    for pair, product in expected.items():
        assert found[pair] == pytest.approx(float(product) / unit, abs=1e-8)
    assert found["sea", "chat"] == found["chat", "sea"]


def test_a_sample_counts_for_the_whole(parents: Parents, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = inner_products(parents, SOURCES)
    monkeypatch.setattr(kinship, "ENTRIES", 512)
    monkeypatch.setattr(kinship, "RUN", 64)
    sampled = inner_products(parents, SOURCES)
    assert sampled != exact and sampled == inner_products(parents, SOURCES)
    for pair, product in exact.items():
        assert sampled[pair] == pytest.approx(product, abs=0.05)


def test_a_source_that_is_the_base_is_akin_to_nobody(family: dict[str, Path]) -> None:
    paths = {"base": family["base"], "chat": family["chat"], "same": family["base"]}
    models = {n: Checkpoint.open(ModelRef(str(path))) for n, path in paths.items()}
    found = inner_products(Parents(models), ("chat", "same"))
    assert found["same", "same"] == found["chat", "same"] == 0 < found["chat", "chat"]
    assert set(inner_products(Parents(models), ("same",)).values()) == {0.0}
