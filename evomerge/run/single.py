"""Scoring one model or recipe, outside any search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge import config
from evomerge import recipe as recipes
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import RunError
from evomerge.fitness.suite import Suite, parse_suite
from evomerge.merging import Sources
from evomerge.recipe import Recipe
from evomerge.run.finish import objective_intervals
from evomerge.worker import Worker


def score(
    model: str, fitness: str | Path, split: str = "select", *, device: str | None = None
) -> dict[str, Any]:
    """Objective values of a model (text, see ``checkpoint``) or recipe file, with 95% intervals.

    Floors and retention need a base and parents and are left out.

    Raises:
        InputError: the fitness file or the model is wrong.
        RunError: the model gives no finite answers.
    """
    problems = config.Problems()
    spec = parse_suite(config.read(fitness), None, problems)
    problems.check()
    assert spec is not None
    recipe = _recipe(model)
    suite = Suite(spec)
    items = suite.splits[split]
    worker = Worker(
        {
            "models": {n: recipe.ref(n).portable for n in Sources.open(recipe).models},
            "tokenizer": recipe.tokenizer,
            "dtype": recipe.dtype,
            "suite": spec.plain,
            "batch_size": spec.batch_size,
            "max_length": spec.max_length,
            "threads": 1,
            "device": device,
            "trust_remote_code": False,
        }
    )
    outcome = worker({"key": "score", "recipe": recipe.portable().plain, "items": items})
    if outcome["error"]:
        raise RunError(f"{model}: {outcome['error']}")
    return {
        "model": model,
        "split": split,
        "objectives": objective_intervals(suite, outcome["results"], seed=0),
    }


def _recipe(model: str) -> Recipe:
    """A recipe file, or a recipe that passes one model through."""
    if model.endswith((".yaml", ".yml")):
        return Recipe.load(model)
    ref = ModelRef(model)
    name = "model"
    group = recipes.group("passthrough", (name,))
    return Recipe(None, {name: ref}, (group,), Checkpoint.open(ref).dtype, 0, name)
