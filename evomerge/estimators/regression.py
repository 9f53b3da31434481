"""Ridge regression on the archive's columns."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from evomerge.estimators import Known, Sample

RIDGE = 30.0


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
        self._apart = (responses - self._mean).T  # [items, models]
        ridge = RIDGE * float(np.mean(self._apart**2)) if self._apart.size else 0.0
        self._ridge = ridge * np.eye(self._apart.shape[1]) if ridge else None

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        count = len(sample.items)
        if not count:
            return np.tile(self._mean, (len(sample.responses), 1))
        residual = (sample.responses - self._mean[sample.items]).T  # [sampled, candidates]
        level = np.add.reduce(residual, 0) / count
        guess: Float[np.ndarray, "candidates items"] = self._mean + level[:, None]
        if self._ridge is not None:
            x = self._apart[sample.items]
            centre = np.add.reduce(x, 0) / count
            x -= centre
            beta = np.linalg.solve(x.T @ x + self._ridge, x.T @ (residual - level))
            guess += ((self._apart - centre) @ beta).T
        return guess

    def predict_folds(
        self, sample: Sample, kept: Bool[np.ndarray, "folds sampled"]
    ) -> Float[np.ndarray, "folds candidates items"]:
        weight = kept.astype(np.float64)
        weight /= weight.sum(1, keepdims=True)
        residual = (sample.responses - self._mean[sample.items]).T  # [sampled, candidates]
        level = weight @ residual  # [folds, candidates]
        guess: Float[np.ndarray, "folds candidates items"] = self._mean + level[:, :, None]
        if self._ridge is not None:
            x = self._apart[sample.items]
            centre = weight @ x  # [folds, models]
            there = (x - centre[:, None]) * kept[:, :, None]  # [folds, sampled, models]
            turned = there.transpose(0, 2, 1)
            gram = turned @ there + self._ridge
            beta = np.linalg.solve(gram, turned @ (residual - level[:, None]))
            shift = (self._apart @ beta) - centre[:, None] @ beta  # [folds, items, candidates]
            guess += shift.transpose(0, 2, 1)
        return guess
