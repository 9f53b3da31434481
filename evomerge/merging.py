"""Materialization: a recipe and its sources become merged tensors.

One loop over tensor names, in depth order; every consumer (a resident model, a folder on disk)
takes the same stream, so a recipe gives the same bytes everywhere. Kernels run in float32 and the
result is cast once, to the recipe's dtype.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import methods, tensors
from evomerge.checkpoint import (
    COMPANIONS,
    Checkpoint,
    beside,
    read_json,
    tensor_bytes,
    write_weights,
)
from evomerge.errors import CandidateFailed, Incompatible, InputError
from evomerge.recipe import BASE, Recipe

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 4 * 2**30
# what gives the same weights another meaning
SAME_CONFIG = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
)


class Sources:
    """The opened models of a recipe: checked against each other once, read by every candidate.

    Raises:
        CheckpointError: a model cannot be read.
        Incompatible: models that cannot be merged, with every difference named.
    """

    def __init__(self, models: Mapping[str, Checkpoint]) -> None:
        self.models = dict(models)
        self.first = next(iter(self.models.values()))
        check_compatible(self.models)

    @classmethod
    def open(cls, recipe: Recipe) -> Sources:
        """Open what ``recipe`` reads (and the model whose tokenizer it takes)."""
        wanted = [
            name for name in (BASE, *recipe.models) if name in (*recipe.used, recipe.tokenizer)
        ]
        return cls({name: Checkpoint.open(recipe.ref(name)) for name in wanted})

    @property
    def names(self) -> tuple[str, ...]:
        return self.first.names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.first.entry(name).shape


def check_compatible(models: Mapping[str, Checkpoint]) -> None:
    """Refuse models that differ in architecture, depth, tensors, shapes or vocabulary."""
    (first_name, first), *others = models.items()
    problems: list[str] = []
    for name, model in others:
        pair = f"{name} ({model.name}) and {first_name} ({first.name})"
        if model.architecture != first.architecture:
            problems.append(
                f"{pair}: architectures differ: {model.architecture} and {first.architecture}"
            )
        elif model.layers != first.layers:
            problems.append(f"{pair}: depths differ: {model.layers} and {first.layers} layers")
        else:
            problems += [f"{pair}: {difference}" for difference in _differences(model, first)]
    if problems:
        raise Incompatible("these models cannot be merged:\n  " + "\n  ".join(problems))


def _differences(model: Checkpoint, first: Checkpoint) -> list[str]:
    missing = [n for n in first.names if n not in set(model.names)]
    extra = [n for n in model.names if n not in set(first.names)]
    if missing or extra:
        which = f"{(missing or extra)[0]!r} ({len(missing) + len(extra)} in all)"
        tied = " (one ties its output head to the embedding, the other does not)" * (
            "lm_head.weight" in missing + extra
        )
        return [f"tensors differ: only one has {which}{tied}"]
    for name in first.names:
        shape, first_shape = model.entry(name).shape, first.entry(name).shape
        if shape != first_shape:
            rows = tensors.place_of(name).role in ("embed", "head") and shape[0] != first_shape[0]
            what = "vocabularies" if rows else "shapes"
            return [f"{what} differ: {name} is {shape} and {first_shape}"]
    for key in SAME_CONFIG:
        ours, theirs = model.config.get(key), first.config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            return [f"config.json differs: {key} is {ours!r} and {theirs!r}"]
    tokens, known = vocabulary(model), vocabulary(first)
    if tokens and known:
        at = {row: token for token, row in known.items()}
        # a token in a row that the other leaves unused moves no meaning
        moved = [t for t, row in tokens.items() if known.get(t, row) != row or at.get(row, t) != t]
        if moved:
            return [
                f"vocabularies differ: {len(moved)} tokens have other rows, for example {moved[0]!r}"
            ]
    return []


def vocabulary(model: Checkpoint) -> dict[str, int]:
    """Token -> row, from the model's ``tokenizer.json``; empty if it has none."""
    path = model.folder / "tokenizer.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    vocab = content.get("model", {}).get("vocab", {})
    tokens = (
        dict(vocab) if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
    )
    tokens.update({token["content"]: token["id"] for token in content.get("added_tokens", [])})
    return tokens


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


def special_tokens(model: Checkpoint) -> dict[str, Any]:
    """The token ids (bos, eos, pad, ...) in a model's config."""
    return {key: value for key, value in model.config.items() if key.endswith("_token_id")}


def _config(recipe: Recipe, sources: Sources) -> dict[str, Any]:
    """The base's config with the recipe's dtype and the tokenizer donor's special tokens."""
    config = {**sources.first.config, **special_tokens(sources.models[recipe.tokenizer])}
    for stale in ("torch_dtype", "quantization_config"):
        config.pop(stale, None)
    return {**config, "dtype": recipe.dtype}
