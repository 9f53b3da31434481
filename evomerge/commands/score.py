"""Scoring one model or recipe, outside any search."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from evomerge import config
from evomerge import recipe as recipes
from evomerge.checkpoint import Checkpoint, ModelRef
from evomerge.errors import RunError
from evomerge.inference.intervals import Interval
from evomerge.interop import load_recipe
from evomerge.judging.estimation import ANCHORED, Estimation
from evomerge.judging.evidence import Bootstrap
from evomerge.judging.final import count
from evomerge.merging import open_parents
from evomerge.recipe import Body, Recipe
from evomerge.record.events import items_digest
from evomerge.record.looks import Book
from evomerge.run.precision import scoring_dtype
from evomerge.run.preflight import check_engine
from evomerge.suite.scorer import SIGNALS, Items, Results
from evomerge.suite.spec import SuiteSpec, parse_suite
from evomerge.suite.suite import Suite
from evomerge.worker import Heard, Job, Setup, Worker

REPORT = "report"


def score_model(
    model: str,
    fitness: str | Path,
    split: str = "select",
    *,
    device: str | None = None,
    gpus: int = 1,
    again: bool = False,
    say: Callable[[str], None] = lambda text: None,
    heard: Heard | None = None,
) -> dict[str, Any]:
    """Objectives and signals of a model (text, see ``checkpoint``) or recipe file, with 95% intervals.

    Floors and retention need a base and parents and are left out. The report split is scored in the
    recipe's own dtype, as at the end of a search, and the look at it is recorded. ``say`` is told what is downloaded,
    ``heard`` how many items are answered, of how many.

    Raises:
        InputError: the fitness file or the model is wrong, or the report items were looked at before
            and ``again`` is not set.
        RunError: the model gives no finite answers.
    """
    spec = read_suite(fitness)
    check_engine(spec)  # before a model is opened, or fetched
    suite, recipe = Suite(spec), recipe_of(model)
    items = suite.splits[split]
    book = Book(suite) if split == REPORT else None
    if book and not again:
        book.read().refuse()
    dtype = recipe.dtype if split == REPORT else None
    results = respond(
        model, recipe, suite, items, dtype=dtype, device=device, gpus=gpus, say=say, heard=heard
    )
    looks = book and book.record(book.look(time.time(), "score", model, recipe.digest))
    bootstrap, behind = Bootstrap.of(suite, items, seed=0), count(suite, items)
    found = {name: each.interval() for name, each in bootstrap.values(results, model).items()}
    if split == "search":
        found |= _anchored(suite, results)
    return {
        "model": model,
        "split": split,
        "items": {"digest": items_digest(items), "counts": {n: len(i) for n, i in items.items()}},
        "looks": looks and looks.plain,
        "objectives": {
            name: {**interval.plain, **asdict(behind[name])} for name, interval in found.items()
        },
        "signals": {
            name: {
                signal: bootstrap.metric(results, model, name, signal).interval().plain
                for signal in SIGNALS
                if any(value is not None for value in responses["metrics"].get(signal, ()))
            }
            for name, responses in results.items()
        },
        "tokens": sum(responses["tokens"] for responses in results.values()),
    }


def _anchored(suite: Suite, results: Results) -> dict[str, Interval]:
    """Objectives of anchors, each counted by its weight."""
    values, errors = Estimation(suite).values(results)
    return {
        n: Interval.unknown(values[n], ANCHORED) for n, error in errors.items() if error is None
    }


def read_suite(fitness: str | Path) -> SuiteSpec:
    """The fitness file, with floors that may name any model.

    Raises:
        InputError: with every problem found.
    """
    problems = config.Problems()
    spec = parse_suite(config.read(fitness), None, problems)
    problems.check()
    assert spec is not None
    return spec


def respond(
    model: str,
    recipe: Recipe,
    suite: Suite,
    items: Items,
    *,
    dtype: str | None = None,
    device: str | None = None,
    gpus: int = 1,
    say: Callable[[str], None] = lambda text: None,
    heard: Heard | None = None,
) -> Results:
    """What one model answers to ``items``; ``dtype`` None is that of a search's candidates.

    ``say`` is told what is downloaded, ``heard`` how many items are answered, of how many.

    Raises:
        RunError: it gives no finite answers.
    """
    spec, parents = suite.spec, open_parents(recipe, say)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    worker = Worker(
        Setup.of(
            spec,
            models={name: recipe.ref(name).pinned for name in parents.models},
            tokenizer=recipe.tokenizer,
            allow=recipe.allow,
            place=recipe.place,
            tokens=recipe.tokens and recipe.tokens.plain,
            dtype=dtype or scoring_dtype(spec.dtype, recipe.dtype, where),
            device=device,
            gpus=gpus,
        )
    )
    outcome = worker(Job("score", recipe.portable().plain, items), heard)
    if outcome.results is None:
        raise RunError(f"{model}: {outcome.error}")
    return outcome.results


def recipe_of(model: str) -> Recipe:
    """A recipe file, or a recipe that passes one model through."""
    if model.endswith((".yaml", ".yml")):
        return load_recipe(model)[0]
    ref = ModelRef(model)
    name = "model"
    group = recipes.passing(name)
    return Recipe(None, {name: ref}, Body((group,)), Checkpoint.outline(ref).dtype, 0, name)
