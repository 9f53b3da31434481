"""Whether what a block adds to the hidden state can be scaled, so that a scale of the hidden state is.

A block reads the hidden state h through a norm and adds to it: h + f(norm(h)). For a scale s of what comes in,
s h + f(norm(s h)) = s (h + f(norm(h)) / s), the epsilon of the norm aside: the next norm sees no s, so
that it is enough to divide by s what is added, in the matrices that make it. That holds of blocks whose last step is
such a matrix, and not of those that normalise what they add, say. Which of both a model is of is tried: one block of
each kind, with random weights, scaled by both ways.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from evomerge.cache import cache_folder, name_of
from evomerge.config import write_text
from evomerge.skeleton import Skeleton, text_part
from evomerge.skeleton.depth import of_blocks

_ADDS = re.compile(
    r"(?:^|\.)(?:o_proj|out_proj|output_linear|down_proj|dense|dense_4h_to_h|c_proj|fc2|fc_out|w2|wo)"
    r"(?:[._](?:weight|bias))?$"
)
_AGREE = 1e-3  # of the size of what is compared; a norm's epsilon makes a part in a million
VERSION = 1


def adds(name: str) -> bool:
    """True for a tensor of a block, by its name, that makes what the block adds to the hidden state."""
    return bool(_ADDS.search(name))


def scales(config: Mapping[str, Any], where: str) -> bool:
    """Whether dividing what ``adds`` scales the hidden state, in a model of this ``config.json``.

    Tried once a model, with as much memory as one of its blocks takes in float32.
    """
    import transformers

    file = (
        cache_folder("skeletons")
        / f"residual-{name_of([VERSION, transformers.__version__, config])}.json"
    )
    with suppress(OSError, ValueError):
        return bool(json.loads(file.read_text("utf-8")))
    try:
        found = all(_scales(small, where) for small in _single_blocks(config, where))
    except (
        Exception
    ):  # no model of one of its blocks alone, or none that runs on few tokens: not found out
        found = False
    with suppress(OSError, RuntimeError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(found))
    return found


def _scales(config: Mapping[str, Any], where: str) -> bool:
    """Whether both ways agree in a model of one block."""
    import torch

    from evomerge.skeleton.modules import model_class, own_config, quiet, stack_of

    scale, width = 0.5, 8
    kind = model_class(config, where)
    with quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = kind(own_config(kind, config)).float().eval()
        name, _ = stack_of(model)
        (block,) = model.get_submodule(name)
        hidden = model.get_input_embeddings().weight.shape[1]
        given = torch.randn(1, width, hidden)
        for name, parameter in block.named_parameters():  # as large as what is added to
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(0, max(parameter.shape[-1], 1) ** -0.5)
        scaled = block.register_forward_pre_hook(_scaling(scale), with_kwargs=True)
        expected = _hidden(model, given)
        scaled.remove()
        for name, parameter in block.named_parameters():
            if adds(name):
                parameter /= scale
        found = _hidden(model, given)
    return bool(
        torch.isfinite(expected).all()
        and (found - expected).abs().max() <= _AGREE * expected.abs().max()
    )


def _hidden(model: Any, given: Any) -> Any:
    """What the head reads, of these embeddings."""
    return model(inputs_embeds=given, output_hidden_states=True, use_cache=False).hidden_states[-1]


def _scaling(scale: float) -> Any:
    """A hook that scales the hidden state which a block is given."""

    def hook(block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (given[0] * scale, *given[1:]), named
        return given, {**named, "hidden_states": named["hidden_states"] * scale}

    return hook


def _single_blocks(config: Mapping[str, Any], where: str) -> Iterable[dict[str, Any]]:
    """The config with one block only, for each kind of block; few tokens."""
    kinds = Skeleton.of(config, where).kinds
    for kind in dict.fromkeys(kinds):
        single = of_blocks(config, [kinds.index(kind)], where)
        text: Any = text_part(single)
        for part in (single, text):
            part |= {key: None for key in part if key.endswith("token_id")}
        text |= {"vocab_size": 16, "pad_token_id": None}
        yield single
