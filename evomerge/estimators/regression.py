"""Ridge regression on the archive's columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from evomerge.estimators import Known, Sample, Together

RIDGE = 30.0
FITS = 16  # that are remembered: each of as many numbers as folds x sampled items x models


class Regression:
    """A candidate is the archive's mean plus a weighted sum of what sets known models apart.

        m = a + x̄ + sum_j beta_j (x_j - x̄)

    with x_j the responses of known model j to all items and x̄ their mean. The intercept ``a`` is
    free; ``beta`` minimises the squared error on the sample plus ``RIDGE * v * |beta|^2``, v being the
    mean square of ``x_j - x̄``. A merge of few models lies near the span of the archive, outside of
    its hull as well as inside.
    """

    def __init__(self, known: Known) -> None:
        responses = known.responses
        self._mean = responses.mean(0) if len(responses) else np.zeros(responses.shape[1])
        apart = responses - self._mean  # [models, items]
        ridge = RIDGE * float(np.mean(apart**2)) if apart.size else 0.0
        if not ridge:  # nothing sets them apart
            apart = apart[:0]
        self._ridge = ridge * np.eye(len(apart))
        self._apart = np.vstack([apart, np.ones_like(self._mean)])  # and a level
        self._fitted = lru_cache(FITS)(self._fit)

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        if not len(sample.items):
            return np.tile(self._mean, (len(sample.responses), 1))
        everything = np.ones((1, len(sample.items)), bool)
        guess: Float[np.ndarray, "candidates items"] = self.predict_folds(sample, everything)[0]
        return guess

    def predict_folds(
        self, sample: Sample, kept: Bool[np.ndarray, "folds sampled"]
    ) -> Float[np.ndarray, "folds candidates items"]:
        items = np.asarray(sample.items, np.int64)
        fitted = self._fitted(items.tobytes(), kept.tobytes())
        guess: Float[np.ndarray, "folds candidates items"]
        guess = ((sample.responses - self._mean[items]) @ fitted) @ self._apart
        guess += self._mean
        return guess

    def _fit(self, items: bytes, kept: bytes) -> Float[np.ndarray, "folds sampled coefficients"]:
        """What makes ``beta`` and the level of responses less x̄; it depends on which items they are alone."""
        x = self._apart[:-1, np.frombuffer(items, np.int64)].T  # [sampled, models]
        parts = np.frombuffer(kept, bool).reshape(-1, len(x))
        weight = parts / parts.sum(1, keepdims=True)
        centre = weight @ x  # [folds, models]
        there = (x - centre[:, None]) * parts[:, :, None]  # [folds, sampled, models]
        gram = there.transpose(0, 2, 1) @ there + self._ridge
        beta = np.linalg.solve(gram, there.transpose(0, 2, 1))  # [folds, models, sampled]
        level = weight - (centre[:, None] @ beta)[:, 0]
        return np.concatenate([beta, level[:, None]], axis=1).transpose(0, 2, 1)

    @staticmethod
    def together(parts: Sequence[Regression]) -> Together | None:
        """The same for predictors of as many archives, each of a candidate of its own."""
        alike = {part._apart.shape for part in parts}
        return _Together(parts) if len(alike) == 1 else None


class _Together:
    """Regressions on archives of equal size, each on a candidate of its own."""

    def __init__(self, parts: Sequence[Regression]) -> None:
        self._mean = np.stack([part._mean for part in parts])  # [parts, items]
        self._apart = np.stack([part._apart for part in parts])  # [parts, models + 1, items]
        self._ridge = np.stack([part._ridge for part in parts])

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        items = np.asarray(sample.items, np.int64)
        own = sample.responses - self._mean[:, items]
        x = self._apart[:, :-1, items]  # [parts, models, sampled]
        centre = x.mean(2, keepdims=True)
        there = x - centre
        gram = there @ there.transpose(0, 2, 1) + self._ridge
        beta = np.linalg.solve(gram, there @ own[:, :, None])  # [parts, models, 1]
        level = own.mean(1)[:, None, None] - (centre * beta).sum(1, keepdims=True)
        guess: Float[np.ndarray, "candidates items"]
        guess = (np.concatenate([beta, level], axis=1) * self._apart).sum(1)
        guess += self._mean
        return guess
