"""lm-eval in a process of ours: silent, and without touching global random generators."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED


@contextmanager
def pinned(device: str = "cpu") -> Iterator[None]:
    """lm-eval's own seeds for task code that draws from global generators; restored after."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        # not ``torch.manual_seed``, which keeps the stack of every call for devices that were never used: 2 ms
        torch.default_generator.manual_seed(DEFAULT_OTHER_SEED)
        if devices:
            torch.cuda.manual_seed(DEFAULT_OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and no warnings that would repeat for every candidate."""
    named = [logging.getLogger(name) for name in ("lm_eval", "transformers", "datasets")]
    # a level that is set makes every logger of the process look for its own again
    loggers = [logger for logger in named if logger.level != logging.ERROR]
    levels = [logger.level for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
