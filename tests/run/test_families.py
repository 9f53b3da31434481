"""Families of today: searched, cut off, resumed, exported, merged, and scored as lm-eval scores the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evomerge import config, merge
from evomerge.cli import main
from evomerge.commands.score import score_model
from evomerge.commands.search import search
from evomerge.recipe import Recipe
from evomerge.record.record import Record
from evomerge.testing.zoo import tiny_members

FAMILIES = {
    "gemma3": "Gemma3ForConditionalGeneration",  # with a vision tower
    "gemma4_text": "Gemma4ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "granite": "GraniteForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "phi3": "Phi3ForCausalLM",  # and Phi-4
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "architecture"), sorted(FAMILIES.items()))
def test_a_family_from_search_to_lm_eval(
    tmp_path: Path, run_folder: Callable[..., Path], model_type: str, architecture: str
) -> None:
    transformers.logging.set_verbosity_error()
    members = tiny_members(tmp_path / "models", model_type, architecture, ("base", "chat", "sea"))
    job: dict[str, Any] = {
        "models": {
            "base": str(members["base"]),
            "sources": {name: str(members[name]) for name in ("chat", "sea")},
            "tokenizer": "chat",
        },
        "optimizer": {"name": "random", "population": 3},
        "budget": {"evaluations": 12},
        "dtype": "float32",
    }
    folder = run_folder(**job)
    winner = search(folder).winner
    assert winner is not None
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    again = run_folder("again", **job)
    (again / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    shutil.copy(folder / "responses.bin", again)
    assert search(again).winner == winner, "whatever a crash cuts off comes again"

    recipe = tmp_path / "best.yaml"
    assert main(["export", str(folder), "--output", str(recipe)]) == 0
    merged = merge(Recipe.load(recipe), tmp_path / "merged")
    table = Record(folder).table
    assert table is not None and table.winner_row is not None
    fitness = folder / "fitness.yaml"
    fitness.write_text(config.dump(config.read(folder / "run.yaml").plain["fitness"]))
    ours = score_model(str(merged), fitness, "report", again=True)["objectives"]
    for name, interval in table.winner_row.objectives.items():
        assert ours[name]["value"] == interval.value, name
    result = simple_evaluate(
        model=HFLM(pretrained=str(merged), device="cpu", dtype="float32", batch_size=8),
        tasks=["sums"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    assert result is not None
    logged: Any = result["samples"]
    theirs = {
        sample["doc_id"]: [nats for ((nats, _),) in sample["resps"]] for sample in logged["sums"]
    }
    compare(folder, merged, theirs)


def compare(folder: Path, merged: Path, theirs: dict[int, list[float]]) -> None:
    """Every item, choice by choice, with what our own engine says of the folder."""
    from evomerge.checkpoint import Checkpoint, ModelRef
    from evomerge.engines import EngineOptions
    from evomerge.engines.huggingface import HuggingFaceEngine
    from evomerge.merging import Materializer
    from evomerge.merging.materializer import Merge
    from evomerge.parents import Parents
    from evomerge.recipe import Body, group
    from evomerge.scorers.lm_eval import LmEvalTask

    recipe = Recipe(
        None,
        {"only": ModelRef(str(merged))},
        Body((group("passthrough", ("only",)),)),
        "float32",
        tokenizer="only",
    )
    checkpoint = Checkpoint.open(ModelRef(str(merged)))
    materializer = Materializer(Parents({"only": checkpoint}))
    engine = HuggingFaceEngine.open(materializer.outline(None), checkpoint, EngineOptions())
    engine.load(Merge(materializer, recipe))
    task = LmEvalTask("sums", include=[folder])
    task.bind(engine)
    ids = [item.id for item in task.items()]
    for row, answers in enumerate(task.score(ids)["responses"]):
        assert [nats for ((nats, _),) in answers] == pytest.approx(theirs[row], abs=1e-4)
