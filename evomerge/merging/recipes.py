"""Merging a recipe, into a live model or onto disk: what the package offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.merging.disk import SHARD_BYTES, write_merge
from evomerge.merging.materializer import Materializer, cores
from evomerge.merging.models import open_parents
from evomerge.parents import Parents, doubts
from evomerge.recipe import Recipe
from evomerge.rounding import Rounding


def merge_into(recipe: Recipe, model: Any, parents: Parents | None = None) -> None:
    """Merge ``recipe`` into the live ``model``, in place: its parameters take the merged values.

    ``model`` is a transformers causal LM of the parents' architecture. Tied parameters are written
    once. Values are rounded to the recipe's dtype, as on disk, whatever the model's is.

    Raises:
        InputError: a model is unreadable or incompatible, or ``model`` has other parameters.
        CandidateFailed: the merge holds NaN or infinity.
    """
    device = str(next(iter(model.parameters())).device)
    opened = parents or open_parents(recipe)
    Materializer(opened, device=device, threads=cores()).into(recipe, model)


def merge(
    recipe: Recipe,
    out: str | Path,
    *,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    device: str = "cpu",
    progress: Callable[[str, int], None] = lambda name, total: None,
    say: Callable[[str], None] = lambda text: None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Materialize ``recipe`` as a Hugging Face folder that transformers and lm-eval load as is.

    Args:
        recipe: what to merge; a model of it may be a recipe file, which is merged first.
        out: the folder to make.
        force: replace an existing folder.
        shard_bytes: largest weight file, bytes.
        device: where kernels run.
        progress: called with each tensor's name and the number of tensors.
        say: called with each line on what is downloaded, on what speaks against the merge, and on what its dtype
            takes, if anything does.
        finish: called with the folder when all else is in it, before it takes its name.

    Raises:
        InputError: ``out`` exists or is a parent, or a model is unreadable or incompatible.
        RunError: the disk is full, or a download broke off.
        CandidateFailed: the merge holds NaN or infinity.
    """
    parents = open_parents(recipe, say)
    for doubt in doubts(parents):
        say(doubt)

    def rounded(found: Rounding) -> None:
        for line in found.lines():
            say(line)

    return write_merge(
        recipe,
        parents,
        Path(out),
        force=force,
        shard_bytes=shard_bytes,
        device=device,
        progress=progress,
        rounded=rounded,
        finish=finish,
    )
