"""Materialization: a recipe and its sources become merged tensors.

One loop over tensor names, in depth order; every consumer (a resident model, a folder on disk)
takes the same stream, so a recipe gives the same bytes everywhere. Kernels run in float32 and the
result is cast once, to the recipe's dtype.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import methods, tensors
from evomerge.checkpoint import (
    COMPANIONS,
    beside,
    tensor_bytes,
    write_weights,
)
from evomerge.errors import CandidateFailed, Incompatible, InputError
from evomerge.merging.sources import Sources, special_tokens
from evomerge.recipe import BASE, Recipe

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 4 * 2**30


def merged(
    recipe: Recipe, sources: Sources, *, device: str = "cpu", check: bool = True
) -> Generator[tuple[str, torch.Tensor]]:
    """The merged tensors of ``recipe`` in depth order, in the recipe's dtype, on ``device``.

    Raises:
        Incompatible: no group of the recipe matches a tensor.
        CandidateFailed: a merged tensor is not finite (with ``check``).
    """
    import torch

    dtype, base = getattr(torch, recipe.dtype), sources.models.get(BASE)
    for name in sources.names:
        place = tensors.place_of(name)
        group = recipe.group_of(place)
        if group is None:
            raise Incompatible(
                f"no group of the recipe matches {name!r} (layer {place.layer}, role {place.role}); "
                "end the list of groups with one that has neither layers nor roles"
            )
        method = methods.get(group.method)
        tensor = method.apply(
            {model: sources.models[model].tensor(name).to(device) for model in group.models},
            base=base.tensor(name).to(device) if base and method.base != "none" else None,
            values=group.values,
            seed=recipe.seed,
            name=name,
            role=place.role,
        ).to(dtype)
        if check and not tensor.isfinite().all():
            raise CandidateFailed(f"{name} of the merged model holds NaN or infinite values")
        yield name, tensor


def merge_into(recipe: Recipe, model: torch.nn.Module, sources: Sources | None = None) -> None:
    """Merge ``recipe`` into the live ``model``, in place: its parameters take the merged values.

    ``model`` is a transformers causal LM of the sources' architecture. Tied parameters are written
    once.
    """
    import torch

    sources = sources or Sources.open(recipe)
    parameters = dict(model.named_parameters())
    device = str(next(iter(parameters.values())).device)
    with torch.no_grad():
        for name, tensor in merged(recipe, sources, device=device):
            parameters[name].copy_(tensor)


def merge(
    recipe: Recipe,
    out: str | Path,
    *,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    device: str = "cpu",
    progress: Callable[[str, int], None] = lambda name, total: None,
) -> Path:
    """Materialize ``recipe`` as a Hugging Face folder that transformers and lm-eval load as is.

    Written beside ``out`` and renamed; memory stays at one shard.

    Args:
        recipe: what to merge.
        out: the folder to make.
        force: replace an existing folder.
        shard_bytes: largest weight file, bytes.
        device: where kernels run.
        progress: called with each tensor's name and the number of tensors.

    Raises:
        InputError: ``out`` exists or is a parent, or a model is unreadable or incompatible.
        RunError: the disk is full.
        CandidateFailed: the merge holds NaN or infinity.
    """
    out = Path(out)
    sources = Sources.open(recipe)
    if own := [m for m in sources.models.values() if m.folder.resolve() == out.resolve()]:
        raise InputError(f"{out}: is a model of the recipe ({own[0].name}); choose another folder")
    sizes = {name: tensor_bytes(sources.shape(name), recipe.dtype) for name in sources.names}
    donor = sources.models[recipe.tokenizer]
    with (
        beside(out, force=force) as work,
        closing(merged(recipe, sources, device=device)) as stream,
    ):
        write_weights(
            work,
            ((name, tensor.cpu().contiguous()) for name, tensor in stream),
            sizes,
            shard_bytes=shard_bytes,
            progress=lambda name: progress(name, len(sizes)),
        )
        (work / "config.json").write_text(json.dumps(_config(recipe, sources), indent=2) + "\n")
        for companion in COMPANIONS:
            if (donor.folder / companion).is_file():
                shutil.copyfile(donor.folder / companion, work / companion)
        (work / "evomerge.yaml").write_text(recipe.portable().to_yaml(), encoding="utf-8")
    return out


def _config(recipe: Recipe, sources: Sources) -> dict[str, Any]:
    """The base's config with the recipe's dtype and the tokenizer donor's special tokens."""
    config = {**sources.first.config, **special_tokens(sources.models[recipe.tokenizer])}
    for stale in ("torch_dtype", "quantization_config"):
        config.pop(stale, None)
    return {**config, "dtype": recipe.dtype}
