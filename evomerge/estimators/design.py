"""What a stratified random sample says about the mean: weights, standard errors, folds."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from evomerge import seeds

FOLDS = 10


class Design:
    """A sample of ``n`` items as a stratified random sample from all ``N``.

    Strata with fewer than two sampled items are collapsed into one, since a single item tells no
    variance (Cochran, "Sampling Techniques", 5A.12).

    Attributes:
        group: of every item, the collapsed stratum ``g``.
        size, taken: ``N_g`` and ``n_g``.
        degrees: of freedom of a variance from residuals.
        fold: of every sampled item. Folds hold random items, of every stratum as evenly as can be.
    """

    def __init__(self, strata: Int[np.ndarray, " items"], items: Int[np.ndarray, " sampled"]):
        self.items = items
        self.group = _collapse(strata, items)
        self.size = np.bincount(self.group)
        self.taken = np.bincount(self.group[items], minlength=len(self.size))
        self.degrees = len(items) - len(self.size)

    @cached_property
    def fold(self) -> Int[np.ndarray, " sampled"]:
        key = np.sort(self.items).tolist()
        mixed = np.argsort(self.items)[np.argsort(seeds.uniforms(len(key), "folds", *key))]
        by_stratum = mixed[np.argsort(self.group[self.items[mixed]], kind="stable")]
        fold = np.empty(len(key), np.int64)
        fold[by_stratum] = np.arange(len(key)) % FOLDS
        return fold

    @cached_property
    def folds(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each fold the sampled items that are not in it, those that are, by position, and the part of
        every item's stratum that it holds."""
        asked, found = self.group[self.items], []
        for fold in np.unique(self.fold):
            out = np.flatnonzero(self.fold == fold)
            share = np.bincount(asked[out], minlength=len(self.size)) / self.taken
            found.append((np.flatnonzero(self.fold != fold), out, share[self.group]))
        return found

    @cached_property
    def kept(self) -> Bool[np.ndarray, "folds sampled"]:
        """Which sampled items are not in a fold."""
        kept: Bool[np.ndarray, "folds sampled"] = np.unique(self.fold)[:, None] != self.fold
        return kept

    @cached_property
    def kept_and_all(self) -> Bool[np.ndarray, "folds_and_one sampled"]:
        """The same, and all of them."""
        return np.vstack([self.kept, np.ones((1, len(self.items)), bool)])

    @cached_property
    def shares(self) -> Float[np.ndarray, "folds items"]:
        """The part of every item's stratum that a fold holds."""
        return np.array([share for _, _, share in self.folds])

    @cached_property
    def rest(self) -> Bool[np.ndarray, " items"]:
        """Which items were not sampled."""
        rest = np.ones(len(self.group), bool)
        rest[self.items] = False
        return rest

    @property
    def share(self) -> float:
        """Of items that were not sampled."""
        return 1 - len(self.items) / len(self.group)

    def means(
        self, values: Float[np.ndarray, "candidates sampled"]
    ) -> Float[np.ndarray, "groups candidates"]:
        """Of the sampled items of each stratum."""
        means: Float[np.ndarray, "groups candidates"] = (self._strata @ values.T) / self.taken[
            :, None
        ]
        return means

    def covariance(
        self, residuals: Float[np.ndarray, "candidates sampled"]
    ) -> Float[np.ndarray, "candidates candidates"]:
        """Of the estimated means, from what is left of responses after prediction.

        ``sum_g (N_g / N)^2 (1 - n_g / N_g) S_g / n_g`` with ``S_g`` the residuals' covariance in
        stratum g.
        """
        apart = residuals - self.means(residuals).T @ self._strata
        found: Float[np.ndarray, "candidates candidates"] = (apart * self._weights) @ apart.T
        return found

    def variance(
        self, variances: Float[np.ndarray, "candidates items"]
    ) -> Float[np.ndarray, " candidates"]:
        """Of the estimated means, given the variance of every residual that was not seen."""
        found: Float[np.ndarray, " candidates"] = variances @ self._unseen
        return found

    @cached_property
    def _strata(self) -> Float[np.ndarray, "groups sampled"]:
        """1 where a sampled item is of a stratum."""
        strata = self.group[self.items] == np.arange(len(self.size))[:, None]
        numbers: Float[np.ndarray, "groups sampled"] = strata.astype(np.float64)
        return numbers

    @cached_property
    def _weights(self) -> Float[np.ndarray, " sampled"]:
        """Of the squares of sampled items in ``covariance``; one item alone has no variance."""
        free = self.taken > 1
        weights = np.where(free, self._scales / np.maximum(self.taken - 1, 1), 0.0)
        sampled: Float[np.ndarray, " sampled"] = weights[self.group[self.items]]
        return sampled

    @cached_property
    def _unseen(self) -> Float[np.ndarray, " items"]:
        """Of the items that were not sampled in ``variance``."""
        count = np.maximum(self.size - self.taken, 1)
        unseen: Float[np.ndarray, " items"] = self.rest * (self._scales / count)[self.group]
        return unseen

    @cached_property
    def _scales(self) -> Float[np.ndarray, " groups"]:
        shares = self.size / self.size.sum()
        scales: Float[np.ndarray, " groups"] = shares**2 * (1 - self.taken / self.size) / self.taken
        return scales


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
