"""A merge onto the disk, as a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint import (
    ModelRef,
    WeightFiles,
    beside,
    companions,
    copy_companions,
    tensor_bytes,
)
from evomerge.errors import CandidateFailed, InputError
from evomerge.merging.materializer import Materializer, cores
from evomerge.merging.tally import Tally
from evomerge.parents import Parents
from evomerge.recipe import BASE, Recipe
from evomerge.rounding import Rounding

SHARD_BYTES = 4 * 2**30
SPARE_BYTES = (
    256 * 2**20
)  # beside those of a shard, for tensors under way; torch and our code take about as many


def write_merge(
    recipe: Recipe,
    parents: Parents,
    out: Path,
    *,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    device: str = "cpu",
    progress: Callable[[str, int], None] = lambda name, total: None,
    rounded: Callable[[Rounding], None] | None = None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Materialize ``recipe`` as a Hugging Face folder that transformers and lm-eval load as is.

    Written beside ``out`` and renamed. However many cores there are, memory stays below a shard and 600 MB, unless one
    tensor's merge takes more.

    Args:
        recipe: what to merge.
        parents: its models.
        out: the folder to make.
        force: replace an existing folder.
        shard_bytes: largest weight file, bytes; about as much memory is taken at most.
        device: where kernels run.
        progress: called with each tensor's name and the number of tensors.
        rounded: called with what rounding to the recipe's dtype takes; None: it is not counted.
        finish: called with the folder when all else is in it, before it takes its name.

    Raises:
        InputError: ``out`` exists or is a parent, or a model is unreadable or incompatible.
        RunError: the disk is full.
        CandidateFailed: the merge holds NaN or infinity.
    """
    if own := [m for m in parents.models.values() if m.folder.resolve() == out.resolve()]:
        raise InputError(f"{out}: is a model of the recipe ({own[0].name}); choose another folder")
    companions(parents.donor)  # what cannot be copied is told before hours of merging
    materializer = Materializer(parents, device=device, threads=cores())
    blueprint = materializer.outline(recipe.body.path)
    tally = Tally(recipe, blueprint.sites) if rounded else None
    sizes = {name: tensor_bytes(shape, recipe.dtype) for name, shape in blueprint.shapes.items()}
    with beside(out, force=force) as work:
        with WeightFiles(work, sizes, shard_bytes=shard_bytes) as files:

            def take(name: str, tensor: Any) -> None:
                files.write(name, tensor)
                progress(name, len(sizes))

            try:
                limit = shard_bytes + SPARE_BYTES
                materializer.each(recipe, take, tally=tally, limit=limit)
            except CandidateFailed:
                for model in parents.models.values():
                    model.check_finite()  # which names a broken parent and where it is broken
                raise
        config = {**blueprint.config(), "dtype": recipe.dtype}
        (work / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        copy_companions(parents.donor, work)
        keep_recipe(recipe, work / "evomerge.yaml")
        finish(work)
    if tally and rounded:
        rounded(tally.rounding)
    return out


def keep_recipe(recipe: Recipe, file: Path) -> None:
    """Write ``recipe`` with all that it is made of but models: recipes that stand for models, and row weights."""
    kept = recipe.portable()
    models = {**({BASE: kept.base} if kept.base else {}), **kept.models}
    for number, (name, model) in enumerate(models.items()):
        if model.is_recipe:
            inner = file.with_name(f"{file.stem}-{number}.yaml")
            keep_recipe(Recipe.load(model.portable), inner)
            models[name] = ModelRef(inner.name, str(file.parent))
    base = models.pop(BASE, None)
    # some loaders take every *.safetensors of a folder for weights
    replace(kept, base=base, models=models).save(file, suffix=".rows")
