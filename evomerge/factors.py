"""Factors: a matrix of low rank, held as the product of two thin ones, as LoRA adapters hold what they change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge import seeds

if TYPE_CHECKING:
    import torch

EXACT = 1024  # smaller side of a matrix up to which all singular vectors are computed
OVERSAMPLED = 16  # directions beyond those wanted, of a larger one ...
PASSES = 8  # ... and how often they are turned towards the strongest


@dataclass(frozen=True)
class Factors:
    """``left @ right``.

    Attributes:
        left: float32 [rows, rank].
        right: float32 [rank, columns].
    """

    left: torch.Tensor
    right: torch.Tensor

    @classmethod
    def none(cls, rows: int, columns: int) -> Factors:
        """Those of a matrix of zeros: of rank 0."""
        import torch

        return cls(torch.zeros(rows, 0), torch.zeros(0, columns))

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def product(self) -> torch.Tensor:
        """The matrix [rows, columns]."""
        return self.left @ self.right

    def to(self, device: torch.device) -> Factors:
        """The same on another device."""
        return Factors(self.left.to(device), self.right.to(device))

    def scaled(self, factor: float | torch.Tensor) -> Factors:
        """The factors of the matrix times a number, or times one a row [rows, 1] or a column [1, columns]."""
        if isinstance(factor, float) or factor.shape[1] == 1:
            return Factors(self.left * factor, self.right)
        return Factors(self.left, self.right * factor)

    def balanced(self, scale: float) -> Factors:
        """The factors of the matrix times ``scale``, both of which grow by its root."""
        root = math.sqrt(abs(scale))
        return Factors(self.left * math.copysign(root, scale), self.right * root)


def concatenated(parts: Sequence[Factors]) -> Factors:
    """The factors of the sum of some matrices, exactly: ranks add up."""
    import torch

    return Factors(
        torch.cat([part.left for part in parts], 1), torch.cat([part.right for part in parts])
    )


def compressed(factors: Factors, rank: int) -> tuple[Factors, float]:
    """The nearest matrix of at most ``rank``, and the square of its distance (Frobenius).

    By the singular values of a small core: with left = Q R and right' = P S, the matrix is Q (R S') P'.
    """
    import torch

    q, r = torch.linalg.qr(factors.left.double())
    p, s = torch.linalg.qr(factors.right.double().mT)
    u, values, v = torch.linalg.svd(r @ s.mT, full_matrices=False)
    root = values[:rank].sqrt()
    found = Factors((q @ u[:, :rank] * root).float(), (root[:, None] * (v[:rank] @ p.mT)).float())
    return found, float(values[rank:].square().sum())


def nearest(matrix: torch.Tensor, rank: int, name: str) -> tuple[Factors, float]:
    """The nearest matrix of at most ``rank``, and the square of its distance (Frobenius).

    Of a large matrix the strongest directions are found by subspace iteration from random ones, which comes close
    to the nearest; the distance is that of what was found.

    Args:
        matrix: float32 [rows, columns].
        rank: at least 1.
        name: of the tensor, which keys the random directions.

    Source: Halko et al. 2011, Finding structure with randomness, https://arxiv.org/abs/0909.4061, algorithm 4.4.
    """
    import torch

    wide = matrix.double()
    if min(matrix.shape) <= max(EXACT, 2 * rank):
        u, values, v = torch.linalg.svd(wide, full_matrices=False)
    else:
        count = rank + OVERSAMPLED
        drawn = seeds.uniforms(matrix.shape[1] * count, "nearest", name)
        start = torch.from_numpy(drawn).double().reshape(-1, count) - 0.5
        basis = torch.linalg.qr(wide @ start.to(wide.device))[0]
        for _ in range(PASSES):
            basis = torch.linalg.qr(wide.mT @ basis)[0]
            basis = torch.linalg.qr(wide @ basis)[0]
        inner, values, v = torch.linalg.svd(basis.mT @ wide, full_matrices=False)
        u = basis @ inner
    root = values[:rank].sqrt()
    found = Factors((u[:, :rank] * root).float(), (root[:, None] * v[:rank]).float())
    return found, float((matrix - found.product).square().sum(dtype=torch.float64))
