"""Sums over the entries of the task vectors of some models: what all facts but ranks follow from.

With tau_i the task vector of model i, M = sum_i tau_i and w_i its weights:

    products   <tau_i, tau_j>                    norms, cosine, Pearson, Euclid
    totals     sum tau_i                         Pearson
    magnitudes sum |tau_i|                       density
    zeros      entries where tau_i = 0           sparsity
    both       entries that i and j change       conflict: the share of them ...
    opposed    ... in opposite directions
    votes      entries by how many models need them: i needs one where |tau_i| > mask |M - tau_i| (TALL masks)
    rounding   squares of what a dtype takes of w_i, and of the mean of the models

Papers: Wang et al. 2024, Localizing Task Information for Improved Model Merging and Compression,
    https://arxiv.org/abs/2405.07813 (masks); Lai et al. 2025, Mediator, https://arxiv.org/abs/2502.04411 (layers
    conflict where signs do).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.checkpoint import DTYPES

MASK = 0.4  # of the TALL masks: the middle of what the authors search
CHUNK = 1 << 16  # entries that are looked at together: they stay in the CPU's cache

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """See the module's text; m is the number of models.

    Attributes:
        entries: how many.
        base: square of the base's norm.
        products: [m, m].
        totals: [m].
        magnitudes: [m].
        zeros: [m].
        both: [m, m].
        opposed: [m, m].
        votes: [m + 1], by the number of models that need an entry.
        untouched: entries that no model changes; they are among those that none needs.
        needed: [m], entries that a model needs.
        alone: [m], and that no other does.
        rounding: [dtypes, m + 1], the mean's last; in the order of ``DTYPES``.
    """

    entries: float
    base: float
    products: Array
    totals: Array
    magnitudes: Array
    zeros: Array
    both: Array
    opposed: Array
    votes: Array
    untouched: float
    needed: Array
    alone: Array
    rounding: Array

    @classmethod
    def none(cls, models: int) -> Sums:
        """Of no entry."""
        line, square = np.zeros(models), np.zeros((models, models))
        return cls(
            entries=0.0,
            base=0.0,
            products=square,
            totals=line,
            magnitudes=line,
            zeros=line,
            both=square,
            opposed=square,
            votes=np.zeros(models + 1),
            untouched=0.0,
            needed=line,
            alone=line,
            rounding=np.zeros((len(DTYPES), models + 1)),
        )

    @classmethod
    def of(cls, base: torch.Tensor, models: Sequence[torch.Tensor], mask: float = MASK) -> Sums:
        """Of one tensor.

        Args:
            base: the base's, of any shape and dtype.
            models: those of the models, of the same shape.
            mask: how far an entry must stand out for a model to need it.
        """
        found = cls.none(len(models))
        flat, others = base.reshape(-1), [model.reshape(-1) for model in models]
        for start in range(0, len(flat), CHUNK):
            ours = flat[start : start + CHUNK].float()
            theirs = torch.stack([other[start : start + CHUNK].float() for other in others])
            found = found + cls._of_chunk(ours, theirs, mask)
        return found

    @classmethod
    def _of_chunk(cls, base: torch.Tensor, models: torch.Tensor, mask: float) -> Sums:
        """The same of base [n] and models [m, n], float32."""
        deltas = models - base
        wide = deltas.double()
        size = deltas.abs()
        changed = deltas != 0
        total = deltas.sum(0)
        needs = size > mask * (total - deltas).abs()
        votes = needs.sum(0)
        count = len(models)
        signs = deltas.sign()
        same, agree = changed.float(), signs @ signs.T  # agreeing less opposed, exact up to 2^24
        both = (same @ same.T).double()
        whole = torch.cat([models, models.mean(0, keepdim=True)])
        lost = torch.stack(
            [(whole.to(getattr(torch, name)).float() - whole).square().sum(1, dtype=torch.float64)
             for name in DTYPES]
        )  # fmt: skip
        return cls(
            entries=float(base.numel()),
            base=float(base.double().square().sum()),
            products=(wide @ wide.T).numpy(),
            totals=wide.sum(1).numpy(),
            magnitudes=wide.abs().sum(1).numpy(),
            zeros=(~changed).sum(1).double().numpy(),
            both=both.numpy(),
            opposed=((both - agree.double()) / 2).numpy(),
            votes=torch.bincount(votes, minlength=count + 1).double().numpy(),
            untouched=float((~changed.any(0)).sum()),
            needed=needs.sum(1).double().numpy(),
            alone=(needs & (votes == 1)).sum(1).double().numpy(),
            rounding=lost.numpy(),
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def __mul__(self, factor: float) -> Sums:
        """Of so many times as many entries, of which these are a sample."""
        return Sums(**{f.name: getattr(self, f.name) * factor for f in fields(self)})
