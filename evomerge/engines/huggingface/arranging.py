"""A live model with other blocks than the last one, in the memory of the last one.

A candidate may have a block twice, leave some out, or take one of a single model. The modules are made anew, as
transformers makes them of the candidate's config; their parameters are those of the last model: a block's own where
it had the same, else those of one of its kind that is no longer needed (buffers, such as masks, are a kind's own). Blocks
that hold the same share them, so that a model twice as deep takes no more memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from evomerge.skeleton import Skeleton
from evomerge.skeleton.modules import meta_model, stack_of


def arranged(
    model: Any,
    last: Mapping[str, Any],
    before: Sequence[Hashable],
    config: Mapping[str, Any],
    blocks: Sequence[Hashable],
) -> Any | None:
    """The model of ``config`` with these ``blocks``, in the memory of ``model``, which is not to be used any more.

    What its parameters hold is to be written; None if ``model`` has none that fit.

    Args:
        model: the last one.
        last: its config.
        before: what its blocks held.
        config: of the model that is wanted.
        blocks: what each of its blocks is going to hold.
    """
    where = "a model of other blocks"
    made = meta_model(config, where)
    name, depth = stack_of(made)
    if name != stack_of(model)[0] or depth != len(blocks):
        return None
    stack = made.get_submodule(name)
    old, new = (list(each.get_submodule(name)) for each in (model, made))
    kinds = (*Skeleton.of(last, where).kinds, *Skeleton.of(config, where).kinds)
    forms = {
        id(block): (kind, _shapes(block)) for block, kind in zip((*old, *new), kinds, strict=True)
    }
    sources = _sources(old, before, new, blocks, forms)
    if sources is None:
        return None
    for block, source in zip(stack, sources, strict=True):
        _lend(block, source)
    own = {at: each for at, each in _tensors(model).items() if not at.startswith(f"{name}.")}
    _lend(made, own)
    if any(tensor.is_meta for tensor in _tensors(made).values()):
        return None
    made.config.dtype = model.config.dtype
    made.generation_config = model.generation_config
    return made.eval().requires_grad_(False)


def _sources(
    old: Sequence[nn.Module],
    before: Sequence[Hashable],
    new: Sequence[nn.Module],
    blocks: Sequence[Hashable],
    forms: Mapping[int, Any],
) -> list[Mapping[str, torch.Tensor]] | None:
    """For each new block the tensors that it takes; None if one has the form of none of the old."""
    stock = dict(zip(before, old, strict=True))
    wanted = dict(zip(blocks, new, strict=True))
    found: dict[Hashable, Mapping[str, torch.Tensor]] = {
        block: _tensors(stock[block])
        for block, module in wanted.items()
        if block in stock and forms[id(stock[block])] == forms[id(module)]
    }
    free = [module for block, module in stock.items() if block not in found]
    for block, module in wanted.items():
        if block in found:
            continue
        like = forms[id(module)]
        place = next((each for each in free if forms[id(each)] == like), None)
        if place is not None:
            free.remove(place)
            found[block] = _tensors(place)
            continue
        model = next((each for each in stock.values() if forms[id(each)] == like), None)
        if model is None:
            return None
        found[block] = {
            name: nn.Parameter(torch.empty_like(each), requires_grad=False)
            if isinstance(each, nn.Parameter)
            else each
            for name, each in _tensors(model).items()
        }
    return [found[block] for block in blocks]


def _lend(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Have ``module`` hold these ``tensors`` by their names."""
    owners = dict(module.named_modules())
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        if owner in owners and leaf in (held := owners[owner]._parameters):
            held[leaf] = tensor
        elif owner in owners and leaf in owners[owner]._buffers:
            owners[owner]._buffers[leaf] = tensor


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, shared ones under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _tensors(module).items()}
