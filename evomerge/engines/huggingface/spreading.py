"""One model over several devices: whole blocks one after the other, placed by accelerate.

Inputs go to the first device, each block runs where its weights lie, and outputs come back to the first. So a
model that no device alone has room for is scored, at the speed of one: while a device works the others wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evomerge.engines.abilities import why_not_split
from evomerge.errors import InputError

_ROOM = 0.9  # of the free memory of a device is for weights; activations and one tensor's merge take the rest


def place(model: Any, memory: Mapping[str, int]) -> dict[str, str]:
    """The device of each module of ``model``, which may lie on the meta device: as even as whole blocks allow.

    Args:
        model: of transformers.
        memory: device, as torch names it -> bytes for weights; the first is given inputs.

    Raises:
        InputError: the model does not fit, or cannot be spread.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    devices, whole = list(memory), sorted(getattr(model, "_no_split_modules", None) or ())
    if why := why_not_split(whole, type(model).__name__):
        raise InputError(f"--num-gpus {len(devices)}: {why}; leave it out")
    limits: dict[int | str, int] = dict(enumerate(memory.values()))
    balanced = get_balanced_memory(model, dict(limits), whole)
    found = infer_auto_device_map(model, balanced, whole)
    if any(number not in limits for number in found.values()):
        size = sum(each.nbytes for each in {*model.parameters(), *model.buffers()})
        free = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in memory.items())
        raise InputError(
            f"the model takes {size / 2**30:.1f} GB, its blocks whole; there are for weights, in GB: {free}. Give a "
            "worker more GPUs (--num-gpus)"
        )
    return {name: devices[number] for name, number in found.items()}


def free_memory(devices: Sequence[str]) -> dict[str, int]:
    """Bytes that each of some GPUs has for weights."""
    return {name: int(_ROOM * torch.cuda.mem_get_info(name)[0]) for name in devices}


def spread(model: Any, memory: Mapping[str, int]) -> Any:
    """``model`` in parts, each where ``place`` says; the first device is given inputs, and gives outputs.

    Raises:
        InputError: as ``place``.
    """
    from accelerate import dispatch_model

    where = {name: torch.device(device) for name, device in place(model, memory).items()}
    return dispatch_model(
        model,
        where,
        main_device=torch.device(next(iter(memory))),
        skip_keys=getattr(model, "_skip_keys_device_placement", None),
        force_hooks=True,
    )
