"""A search over layer paths: resumed, exported, merged, and scored as lm-eval scores the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file

from evomerge import config, merge
from evomerge.cli import main
from evomerge.commands.score import read_suite, score_model
from evomerge.commands.search import search
from evomerge.interop import load_recipe, to_mergekit
from evomerge.recipe import Recipe
from evomerge.record.record import Record
from evomerge.scorers.lm_eval import LmEvalTask
from evomerge.suite.suite import Suite


@pytest.mark.slow
def test_a_path_from_search_to_lm_eval(tmp_path: Path, run_folder: Callable[..., Path]) -> None:
    job: dict[str, Any] = {
        "space": {
            "methods": ["task_arithmetic"],
            "start": ["uniform", "depth_upscale"],
            "path": {"runs": 4, "rounds": 2, "scale": True},
        },
        "optimizer": {"name": "random", "population": 4},
        "budget": {"evaluations": 16},
        "dtype": "float32",
        "seed": 1,
    }
    folder = run_folder(**job)
    winner = search(folder).winner
    assert winner is not None and winner.body.path, "these random models like to be rearranged"
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    again = run_folder("again", **job)
    (again / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    shutil.copy(folder / "responses.bin", again)
    assert search(again).winner == winner

    recipe = tmp_path / "best.yaml"
    assert main(["export", str(folder), "--output", str(recipe)]) == 0
    merged = merge(Recipe.load(recipe), tmp_path / "merged")
    fitness = folder / "fitness.yaml"
    fitness.write_text(config.dump(config.read(folder / "run.yaml").plain["fitness"]))
    table = Record(folder).table
    assert table is not None and table.winner_row is not None
    ours = score_model(str(merged), fitness, "report", again=True)["objectives"]
    for name, interval in table.winner_row.objectives.items():
        assert ours[name]["value"] == interval.value, name
    report = Suite(read_suite(fitness)).splits["report"]["sums"]
    rows = [
        row
        for row, item in enumerate(LmEvalTask("sums", include=[folder]).items())
        if item.id in report
    ]
    result = simple_evaluate(
        model=HFLM(pretrained=str(merged), device="cpu", dtype="float32", batch_size=8),
        tasks=["sums"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        samples={"sums": rows},
        bootstrap_iters=0,
    )
    assert result is not None
    theirs = result["results"]["sums"]["acc,none"]
    assert theirs == table.winner_row.objectives["sums"].value

    # and through a file of mergekit's slices
    file = tmp_path / "mergekit.yaml"
    file.write_text(to_mergekit(Recipe.load(recipe)))
    through, _ = load_recipe(file)
    other = load_file(merge(through, tmp_path / "through") / "model.safetensors")
    for name, tensor in load_file(merged / "model.safetensors").items():
        assert tensor.equal(other[name]), name


@pytest.mark.slow
def test_coefficients_first_and_paths_afterwards(run_folder: Callable[..., Path]) -> None:
    """Descents go along no path; evolution begins at what they found, and changes it."""
    folder = run_folder(
        space={"methods": ["task_arithmetic"], "start": ["uniform"], "path": {"runs": 2}},
        fitness={
            "include": ["."],
            "objectives": {"sums": {"task": "sums"}},
            "items": {"search": 10, "select": 8, "report": 8, "candidate": [3, 6]},
        },
        optimizer={"name": "auto", "population": 4, "steps": 2},
        budget={"evaluations": 30},
    )
    search(folder)
    found = [
        (candidate.origin, candidate.recipe.body.path)
        for batch in Record(folder).history.batches
        for candidate in batch.candidates
    ]
    descents = [path for origin, path in found if "descend" in origin]
    evolved = [path for origin, path in found if "evolve" in origin]
    assert descents and not any(descents)
    assert any(evolved)
