"""Activations computed again, layer by layer, instead of kept for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from evomerge.errors import InputError

_FLAG, _CALL = "gradient_checkpointing", "_gradient_checkpointing_func"


@contextmanager
def checkpointed(model: Any) -> Iterator[None]:
    """The layers of a transformers model keep no more than what goes into them.

    transformers checkpoints a layer that is in training mode: the module of the layer alone is put into it,
    so that what lies inside still runs as ever, and rates of dropout that a layer applies by itself are 0.

    Raises:
        InputError: no layer of the model can be checkpointed.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"slopes.checkpoint: no layer of {type(model).__name__} can be checkpointed; leave it out, or lower "
            "batch_tokens"
        )
    before = [dict(vars(layer)) for layer in layers]
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    try:
        for layer, own in zip(layers, before, strict=True):
            rates = {name for name, value in own.items() if "drop" in name and type(value) is float}
            for name in rates:
                setattr(layer, name, 0.0)
            layer.training = True
            setattr(layer, _FLAG, True)
            setattr(layer, _CALL, again)
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            for name in vars(layer).keys() - own.keys():
                delattr(layer, name)
            vars(layer).update(own)
