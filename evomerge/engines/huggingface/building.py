"""A live model of transformers with the shapes of the merged ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from evomerge.checkpoint import Donor
from evomerge.engines import Outline
from evomerge.skeleton.modules import model_class, own_config


def build_model(outline: Outline, donor: Donor, dtype: str, device: str) -> Any:
    """A causal LM in eval mode, without gradients, that generates as ``donor`` does.

    It is loaded from the donor; a candidate overwrites every weight, and those of blocks and tokens that the
    donor lacks.
    """
    content = outline.config()
    kind = model_class(content, donor.name)
    with _quiet(), torch.random.fork_rng(devices=[]):
        model = kind.from_pretrained(
            donor.folder,
            config=own_config(kind, content),
            dtype=getattr(torch, dtype),
            ignore_mismatched_sizes=True,
        )
    if (donor.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(donor.folder)
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """No report of blocks that the donor lacks, or has beyond those that are wanted."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
