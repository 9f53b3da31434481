"""Weights of 4 bits score as transformers scores the exported folder in 4 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from evomerge import merge
from evomerge.checkpoint import ModelRef
from evomerge.commands.check import check
from evomerge.commands.score import score_model
from evomerge.engines import EngineOptions, Request
from evomerge.engines.abilities import check_quantize
from evomerge.engines.huggingface import HuggingFaceEngine
from evomerge.errors import InputError
from evomerge.merging import Materializer, Merge, open_parents
from evomerge.recipe import Body, Recipe, group
from evomerge.testing.models import tiny_family

ASKED = [Request(tuple(range(5, 30)), (n, n + 1)) for n in (40, 50, 60)]


def recipe_of(family: dict[str, Path], weight: float) -> Recipe:
    models = {name: ModelRef(str(family[name])) for name in ("chat", "sea")}
    groups = (group("task_arithmetic", tuple(models), {"weight": weight}),)
    return Recipe(ModelRef(str(family["base"])), models, Body(groups), "float32")


@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_equals_the_exported_folder_in_4_bits(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from lm_eval.models.huggingface import HFLM

    # whole blocks of 64 numbers a row, as bitsandbytes wants them on a CPU
    family = tiny_family(tmp_path, hidden_size=64, intermediate_size=128)
    parents = open_parents(recipe_of(family, 0.4))
    materializer = Materializer(parents)
    options = EngineOptions(quantize=kind)
    engine = HuggingFaceEngine.open(materializer.outline(None), parents.donor, options)
    exact = HuggingFaceEngine.open(materializer.outline(None), parents.donor, EngineOptions())
    for number, weight in enumerate((0.4, 0.7)):  # one candidate after the other
        recipe = recipe_of(family, weight)
        for each in (engine, exact):
            each.load(Merge(materializer, recipe))
        folder = merge(recipe, tmp_path / f"{number}")
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind)
        model = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
        )
        theirs = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder))
        expected = theirs._loglikelihood_tokens(
            [(("", ""), list(r.context), list(r.continuation)) for r in ASKED], disable_tqdm=True
        )
        ours = engine.loglikelihood(ASKED)
        assert [each.nats for each in ours] == pytest.approx([n for n, _ in expected], abs=1e-4)
        assert [each.greedy for each in ours] == [greedy for _, greedy in expected]
        apart = [
            abs(a.nats - b.nats) for a, b in zip(ours, exact.loglikelihood(ASKED), strict=True)
        ]
        assert max(apart) > 1e-2  # it is no other name for float32


def with_quantize(run_folder: Callable[..., Path], kind: str, **fitness: Any) -> Path:
    return run_folder(
        fitness={"include": ["."], "objectives": {"sums": {"task": "sums"}}, "quantize": kind}
        | fitness
    )


def test_what_cannot_be_is_refused_where_it_stands(run_folder: Callable[..., Path]) -> None:
    with pytest.raises(
        InputError, match=r"run\.yaml:\d+: fitness\.quantize: engine .* nf44.*'nf4'"
    ):
        check(with_quantize(run_folder, "nf44"))


def test_a_library_that_lacks_is_named_before_a_model_is_opened(
    run_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {"nf4": "a_library_that_is_not_there"}
    monkeypatch.setattr(HuggingFaceEngine, "QUANTIZES", lacking)
    with pytest.raises(InputError, match="needs a_library_that_is_not_there, which is not inst"):
        check(with_quantize(run_folder, "nf4"))
    check_quantize("huggingface", "")
    fitness = tmp_path / "fitness.yaml"
    fitness.write_text("objectives: {x: {text: texts.txt}}\nquantize: nf4\n")
    (tmp_path / "texts.txt").write_text("a\n\nb\n")
    for asked in (lambda: check(fitness), lambda: score_model("org/not-there", fitness)):
        with pytest.raises(InputError, match=r"fitness\.yaml:2: quantize: nf4 needs a_library"):
            asked()


def test_quantized_weights_have_no_slopes(run_folder: Callable[..., Path]) -> None:
    pytest.importorskip("bitsandbytes")
    told = "\n".join(check(with_quantize(run_folder, "nf4")))
    assert "with weights of 4 bits (nf4)" in told
    assert "slopes: none; weights that are quantized (nf4) have no derivatives" in told
    assert "of no use to it: a model that is quantized (nf4) lies on one device" in told
