"""Ridge regression on the archive's columns."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

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
        self._ridge = RIDGE * float(np.mean(self._apart**2)) if self._apart.size else 0.0

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        guess = np.tile(self._mean, (len(sample.responses), 1))
        if not len(sample.items):
            return guess
        residual = (sample.responses - self._mean[sample.items]).T  # [sampled, candidates]
        level = residual.mean(0)
        guess += level[:, None]
        if self._ridge:
            x = self._apart[sample.items]
            centre = x.mean(0)
            x = x - centre
            gram = x.T @ x + self._ridge * np.eye(x.shape[1])
            beta = np.linalg.solve(gram, x.T @ (residual - level))
            guess += ((self._apart - centre) @ beta).T
        return guess
