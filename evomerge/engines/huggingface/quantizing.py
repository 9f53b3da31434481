"""Models that score in 4 bits: each merged weight is rounded as it is taken, by bitsandbytes.

Merges themselves are as ever, in the recipe's dtype; what is lost is lost for scoring alone.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from evomerge.engines import Weights
from evomerge.errors import InputError

# bitsandbytes' 4-bit numbers (Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314, section 3)
KINDS = {"fp4": "bitsandbytes", "nf4": "bitsandbytes"}


def loading(kind: str, dtype: str, device: str) -> dict[str, Any]:
    """What ``from_pretrained`` is told, so that linear layers but the head are of ``kind`` and compute in ``dtype``."""
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def take(model: Any, weights: Weights) -> None:
    """Let ``model``, which was loaded so, have ``weights``, one at a time.

    Raises:
        CandidateFailed: they are not finite.
        InputError: transformers holds one in another form than it is merged in.
    """
    lock = threading.Lock()

    def write(name: str, tensor: torch.Tensor) -> None:
        path, _, leaf = name.rpartition(".")
        try:
            old = model.get_parameter(name)
        except AttributeError:
            old = None
        state = getattr(old, "quant_state", None)
        shape = None if old is None else tuple(old.shape if state is None else state.shape)
        if shape != tuple(tensor.shape):
            raise InputError(
                f"quantize: {name}: transformers holds it in another form than it stores it, so it cannot be taken "
                f"alone by a {type(model).__name__}; leave quantize out"
            )
        with lock:
            if state is None:
                old.copy_(tensor)
                return
            module = model.get_submodule(path)
            new = type(old)(
                tensor.to(model.dtype),
                requires_grad=False,
                quant_type=old.quant_type,
                blocksize=old.blocksize,
                compress_statistics=old.compress_statistics,
                quant_storage=old.quant_storage,
                module=module,
            )
            setattr(module, leaf, new.to(old.device))

    weights.each(write)
