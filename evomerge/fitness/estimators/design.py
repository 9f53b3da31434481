"""What a stratified random sample says about the mean: weights, standard errors, folds."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from evomerge import seeds

FOLDS = 10


class Design:
    """A sample of ``n`` items as a stratified random sample from all ``N``.

    Strata with fewer than two sampled items are collapsed into one, since a single item tells no
    variance (Cochran, "Sampling Techniques", 5A.12).

    Attributes:
        group: of every item, the collapsed stratum ``g``.
        size, taken: ``N_g`` and ``n_g``.
        fold: of every sampled item. Folds hold random items, of every stratum as evenly as can be.
    """

    def __init__(self, strata: Int[np.ndarray, " items"], items: Int[np.ndarray, " sampled"]):
        self.items = items
        self.group = _collapse(strata, items)
        self.size = np.bincount(self.group)
        self.taken = np.bincount(self.group[items], minlength=len(self.size))

    @cached_property
    def fold(self) -> Int[np.ndarray, " sampled"]:
        key = np.sort(self.items).tolist()
        mixed = np.argsort(self.items)[np.argsort(seeds.uniforms(len(key), "folds", *key))]
        by_stratum = mixed[np.argsort(self.group[self.items[mixed]], kind="stable")]
        fold = np.empty(len(key), np.int64)
        fold[by_stratum] = np.arange(len(key)) % FOLDS
        return fold

    def covariance(
        self, residuals: Float[np.ndarray, "candidates sampled"]
    ) -> Float[np.ndarray, "candidates candidates"]:
        """Of the estimated means, from what is left of responses after prediction.

        ``sum_g (N_g / N)^2 (1 - n_g / N_g) S_g / n_g`` with ``S_g`` the residuals' covariance in
        stratum g, times the variance of Student's t for the degrees of freedom left: so few
        residuals tell their variance badly, and normal bounds would be too narrow.
        """
        total = np.zeros((len(residuals), len(residuals)))
        for group, (size, taken) in enumerate(zip(self.size, self.taken, strict=True)):
            if taken > 1:
                part = residuals[:, self.group[self.items] == group]
                part = part - part.mean(1, keepdims=True)
                scale = (size / self.size.sum()) ** 2 * (1 - taken / size) / taken / (taken - 1)
                total += scale * (part @ part.T)
        degrees = max(len(self.items) - len(self.size), 3)
        return total * degrees / (degrees - 2)

    @property
    def share(self) -> float:
        """Of items that were not sampled."""
        return 1 - len(self.items) / len(self.group)


def _collapse(
    strata: Int[np.ndarray, " items"], items: Int[np.ndarray, " sampled"]
) -> Int[np.ndarray, " items"]:
    """Codes 0, 1, ... of strata of which at least two items are sampled, or of one stratum."""
    code = np.unique(strata, return_inverse=True)[1]
    taken = np.bincount(code[items], minlength=code.max() + 1)
    few = taken < 2
    if few.any() and taken[few].sum() < 2 and not few.all():
        few[np.argmin(np.where(few, len(items) + 1, taken))] = True  # the smallest of the others
    code[few[code]] = np.argmax(few) if few.any() else 0
    return np.unique(code, return_inverse=True)[1]
