"""The engine of transformers and one with weights of its own, a plugin, hold to the same contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.commands.score import score_model
from evomerge.engines import EngineOptions, Request, Scored, Weights
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import Incompatible, InputError
from evomerge.merging import Materializer, merge
from evomerge.merging.blueprint import Blueprint
from evomerge.parents import Parents
from evomerge.run.preflight import prepare
from evomerge.run.spec import load_run
from evomerge.testing.engines import RECIPES, EngineContract, Truth

PLUGIN = Path(__file__).parent / "copying.py"
FoundWith = Callable[..., list[tuple[Any, ...]]]


def install_in(site: Path) -> Path:
    """``site`` as pip leaves it: a module, and the metadata that names its entry point."""
    site.mkdir(exist_ok=True)
    (site / "copying_engine.py").write_text(PLUGIN.read_text())
    metadata = site / "copying_engine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: copying-engine\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[evomerge.engines]\ncopying = copying_engine:Copying\n"
    )
    return site


class TestHuggingFace(EngineContract):
    engine = "huggingface"


class TestHuggingFaceInSmallBatches(EngineContract):
    engine = "huggingface"
    options = EngineOptions(batch_tokens=64)


class TestCopying(EngineContract):
    engine = "copying"

    @pytest.fixture(scope="class", autouse=True)
    def installed(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(install_in(tmp_path_factory.mktemp("site")))
            yield


class Deaf(HuggingFaceEngine):
    """Runs what it was opened with, as an engine that nobody tells of candidates does."""

    def load(self, weights: Weights) -> None:
        weights.each(lambda name, tensor: None)


class StaleHead(HuggingFaceEngine):
    """Keeps a head of its own for tied embeddings: that of the first candidate."""

    def load(self, weights: Weights) -> None:
        super().load(weights)
        model = self.module()
        if model.config.tie_word_embeddings:
            model.config.tie_word_embeddings = False
            head = model.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


class Forgetful(HuggingFaceEngine):
    """Keeps what it was first asked."""

    def loglikelihood(self, requests: Sequence[Request]) -> list[Scored]:
        self._kept = getattr(self, "_kept", None) or super().loglikelihood(requests)
        return self._kept


@pytest.mark.parametrize("faulty", [Deaf, StaleHead, Forgetful])
def test_the_contract_sees(faulty: type[HuggingFaceEngine], tmp_path: Path) -> None:
    class Contract(EngineContract):
        engine = "huggingface"

    contract = Contract()
    parents = Parents.open(RECIPES["both"])
    truths = {}
    for name, recipe in RECIPES.items():
        model = AutoModelForCausalLM.from_pretrained(merge(recipe, tmp_path / name))
        truths[name] = Truth(model.eval())
    engine = faulty.open(Blueprint.of(parents), parents.donor, EngineOptions())
    with pytest.raises((AssertionError, Incompatible)):
        contract.test_every_load_is_what_runs(engine, Materializer(parents), truths)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that holds the engine and its entry point."""
    site = install_in(tmp_path / "site")
    monkeypatch.syspath_prepend(site)
    return site


@pytest.mark.slow
def test_a_search_finds_the_same_with_either(plugin: Path, found_with: FoundWith) -> None:
    found = {e: found_with(e) for e in ("huggingface", "copying")}
    assert found["huggingface"] == found["copying"]
    assert len({json.dumps(values) for *_, values in found["copying"]}) > 4, "candidates differ"


def test_functions_need_a_module(tmp_path: Path, plugin: Path, run_text: str) -> None:
    (plugin / "my_norm.py").write_text("def norm(model, tokenizer, *, split): return 1.0\n")
    (tmp_path / "run.yaml").write_text(run_text)
    (tmp_path / "fitness.yaml").write_text(
        "engine: copying\nobjectives:\n  mine: {function: 'my_norm:norm'}\n"
    )
    with pytest.raises(
        InputError, match=r"fitness.yaml:3: objectives.mine: my_norm:norm is a func"
    ):
        prepare(load_run(tmp_path / "run.yaml"))
    with pytest.raises(InputError, match="which engine 'copying' does not have"):
        score_model("embedded:chat", tmp_path / "fitness.yaml")
