"""A merge of adapters, written as an adapter: what a recipe changes in the one model that all of its models adapt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evomerge.checkpoint import Checkpoint, ModelRef, beside
from evomerge.checkpoint.adapter_folder import AdapterFolder, adapter_folder
from evomerge.checkpoint.weights import TERNARY
from evomerge.errors import InputError
from evomerge.merging.adapter_export import Export
from evomerge.merging.disk import keep_recipe
from evomerge.merging.models import open_parents
from evomerge.recipe import BASE, Recipe

SMALLER = 8  # times, that compressed adapters are at least


def merge_adapter(
    recipe: Recipe,
    out: str | Path,
    *,
    rank: int | None = None,
    density: float | None = None,
    force: bool = False,
    device: str = "cpu",
    progress: Callable[[str, int], None] = lambda name, total: None,
    say: Callable[[str], None] = lambda text: None,
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a merge of adapters as a PEFT folder: base + it is the merge, before the recipe's dtype rounds that.

    Written beside ``out`` and renamed; memory stays at a few tensors.

    Args:
        recipe: what to merge; its models are adapters of one model, or that model.
        out: the folder to make.
        rank: of the factors of each tensor; None: as large as it takes to be exact.
        density: share of the entries of each factor that are kept, as signs (ComPEFT), in a file of our own that is
            at least ``SMALLER`` times smaller than the adapter in bfloat16; None: all, as they are.
        force: replace an existing folder.
        device: where kernels run.
        progress: called with each tensor's name and the number of tensors.
        say: called with each line on what is downloaded, on the ranks, and on what they lose.
        finish: called with the folder when all else is in it, before it takes its name.

    Raises:
        InputError: ``out`` exists or is a parent; a model is no adapter of the base; the merge is no sum of the
            adapters, and no rank is given; what it changes cannot be part of an adapter.
        RunError: the disk is full.
        CandidateFailed: the merge holds NaN or infinity.
    """
    return write_adapter(
        recipe,
        Path(out),
        rank=rank,
        density=density,
        force=force,
        device=device,
        progress=progress,
        say=say,
        finish=finish,
        kept=True,
    )


def write_adapter(
    recipe: Recipe,
    out: Path,
    *,
    rank: int | None,
    density: float | None,
    force: bool,
    device: str,
    progress: Callable[[str, int], None],
    say: Callable[[str], None],
    finish: Callable[[Path], None] = lambda folder: None,
    kept: bool = False,
    added: bool = False,
) -> Path:
    """As ``merge_adapter``; ``kept``: with its recipe; ``added``: it must be factors alone, to be added to others."""
    if rank is not None and rank < 1:
        raise InputError(f"--rank: expected at least 1, found {rank}")
    if density is not None and not 0 < density <= 1:
        raise InputError(f"--compress: density: expected above 0 and at most 1, found {density:g}")
    base = base_of(recipe)
    export = Export(recipe, open_parents(recipe, say), Checkpoint.open(base), device)
    export.check(out)
    with beside(out, force=force) as work:
        with adapter_folder(work, export.kinds) as made:
            found = export.into(made, rank, progress)
            if added and (others := [*made.whole, *made.numbers]):
                raise InputError(
                    f"--experts: adapters that are added up can hold factors alone, and {out.name} brings {others[0]}, "
                    "whole or in rows; merge without --experts"
                )
            found.signs = export.finish(made, work, base, density)
            if density is not None:
                found.smaller = _times_smaller(work, made, density)
        if kept:
            keep_recipe(recipe, work / "evomerge.yaml")
        finish(work)
    for line in found.lines(rank):
        say(line)
    return out


def base_of(recipe: Recipe) -> ModelRef:
    """The one model that a recipe's models are adapters of, as the first of them names it.

    Raises:
        InputError: a model is a recipe itself, or none is an adapter.
    """
    refs = {**({BASE: recipe.base} if recipe.base else {}), **recipe.models}
    for name, ref in refs.items():
        if ref.is_recipe:
            raise InputError(
                f"--as-adapter: {name} = {ref} is a recipe, and so no adapter; merge it with --as-adapter first, and "
                "name MODEL+THAT"
            )
    if not any(ref.adapter for ref in refs.values()):
        models = ", ".join(f"{name} = {ref}" for name, ref in refs.items())
        raise InputError(
            f"--as-adapter: no model of the recipe is an adapter: {models}; expected MODEL+ADAPTER, adapters of one "
            "model. Merge full models without --as-adapter"
        )
    first = next(iter(refs.values()))
    return ModelRef(first.model, first.origin)


def _times_smaller(work: Path, made: AdapterFolder, density: float) -> float:
    """How many times smaller signs are than the adapter in bfloat16.

    Raises:
        InputError: fewer than ``SMALLER``.
    """
    times = made.bytes_in("bfloat16") / (work / TERNARY).stat().st_size
    if times < SMALLER:
        raise InputError(
            f"--compress: with density {density:g} signs are {times:.1f} times smaller than the adapter in bfloat16; "
            f"expected {SMALLER} times at least: give a lower density"
        )
    return times
