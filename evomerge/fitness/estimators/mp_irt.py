"""mp-IRT: a merge's ability is a mixture of its parents'."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from evomerge.fitness.estimators import Known, Sample
from evomerge.fitness.estimators.irt import fit_items
from evomerge.fitness.estimators.logistic import regress

SPREAD = 0.5  # prior standard deviation of a mixture weight


class MPIRT:
    """``m(i) = sigma(a_i . theta - b_i)``, ``theta = sum_j lambda_j theta_j`` over the known models j.

    lambda is most probable given the sample under the prior N(1/M, SPREAD^2).

    Paper: Mencattini et al., "MERGE3", https://arxiv.org/abs/2502.10436.
    Deviations: all M known models take part, not the parents alone, which the prior makes possible.
    """

    def __init__(self, known: Known) -> None:
        self._items = fit_items(known.responses)

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        a, b, known = self._items.a[sample.items], self._items.b[sample.items], self._items.theta
        models = len(known)
        prior = np.full((len(sample.responses), models), 1 / max(models, 1))
        precision = np.full(models, 1 / SPREAD**2)
        weights = regress(a @ known.T, sample.responses, prior, precision, offset=-b)
        return self._items.probability(weights @ known)
