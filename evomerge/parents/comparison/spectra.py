"""Ranks of a task vector in one matrix: by how many directions it changes the matrix.

    stable     |tau|_F^2 / sigma_1^2                          1 to min(shape)
    effective  exp(H(p)), p_i = sigma_i / sum_j sigma_j       the entropy of the singular values

Both are exact where a side has at most ``EXACT`` entries, by the eigenvalues of the smaller Gram matrix. Of a larger
matrix the stable rank comes from a power iteration, which gives sigma_1 from below, and the effective rank is not told.

Papers: Roy & Vetterli 2007, The effective rank; Rudelson & Vershynin 2007 (stable rank).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from evomerge import seeds

EXACT = 2048  # of the smaller side: the time grows with its cube
ROWS = 1 << 20  # entries of a matrix that are held in float64
STEPS = 12  # of the power iteration: what it lacks of sigma_1 is a percent or so


@dataclass(frozen=True)
class Ranks:
    """Of one matrix.

    Attributes:
        stable: see the module's text.
        effective: None where it was not worked out.
        full: the largest that there could be.
    """

    stable: float
    effective: float | None
    full: int


def ranks(
    base: torch.Tensor, model: torch.Tensor, name: str = "", *, exact: bool = False
) -> Ranks | None:
    """Of what ``model`` changes in ``base``; None if that is nothing, or they are no matrices.

    Args:
        base: [rows, columns].
        model: the same.
        name: keys what a power iteration begins with.
        exact: whatever that takes.
    """
    if base.ndim != 2 or not base.numel():
        return None
    if base.shape[0] < base.shape[1]:
        base, model = base.T, model.T
    full = base.shape[1]
    if not exact and full > EXACT:
        return _estimated(base, model, name)
    gram = torch.zeros(full, full, dtype=torch.float64)
    for delta in _blocks(base, model):
        gram += delta.T @ delta
    if not gram.any():
        return None
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    largest = float(values[-1])
    values = values[values > largest * full * torch.finfo(torch.float64).eps]
    share = values.sqrt() / values.sqrt().sum()
    entropy = float(-(share * share.log()).sum())
    return Ranks(
        float(values.sum()) / largest, float(torch.tensor(entropy, dtype=torch.float64).exp()), full
    )


def _estimated(base: torch.Tensor, model: torch.Tensor, name: str) -> Ranks | None:
    """By power iteration."""
    full = base.shape[1]
    start = seeds.uniforms(full, "rank", name) - 0.5
    vector = torch.from_numpy(start).double()
    largest = total = 0.0
    for _ in range(STEPS):
        vector /= vector.norm() or 1.0
        step, total = torch.zeros(full, dtype=torch.float64), 0.0
        for delta in _blocks(base, model):
            step += delta.T @ (delta @ vector)
            total += float(delta.square().sum())
        largest, vector = float(step @ vector), step
    return Ranks(total / largest, None, full) if largest > 0 else None


def _blocks(base: torch.Tensor, model: torch.Tensor) -> Iterator[torch.Tensor]:
    """What ``model`` changes, some rows at a time, float64."""
    rows = max(1, ROWS // base.shape[1])
    for start in range(0, len(base), rows):
        yield model[start : start + rows].double() - base[start : start + rows].double()
