"""lm-eval in a process of ours: silent, and without touching global random generators."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import datasets
import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

from evomerge.errors import InputError


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


@cache
def no_local_metrics() -> None:
    """``evaluate`` looks for a metric by its name in the current folder first, from now on in vain."""
    if find_spec("evaluate") is None:
        return
    import evaluate

    load = evaluate.load

    def found(path: Any, *options: Any, **named: Any) -> Any:
        if os.sep not in str(path) and os.path.exists(path):
            raise InputError(
                f"metric {path}: the package evaluate would take the code of {os.path.abspath(path)} for it; start in "
                "another folder, or rename that"
            )
        return load(path, *options, **named)

    evaluate.load = found
