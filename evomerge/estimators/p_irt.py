"""p-IRT: an ability from the sample, responses from the ability."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from evomerge.estimators import Known, Sample
from evomerge.estimators.irt import fit_items
from evomerge.estimators.logistic import regress


class PIRT:
    """``m(i) = sigma(a_i . theta - b_i)`` with theta most probable given the sample.

    Paper: Polo et al., "tinyBenchmarks", https://arxiv.org/abs/2402.14992.
    """

    def __init__(self, known: Known) -> None:
        self._items = fit_items(known.responses)

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        a, b = self._items.a[sample.items], self._items.b[sample.items]
        dimensions = a.shape[1]
        prior = np.zeros((len(sample.responses), dimensions))
        theta = regress(a, sample.responses, prior, np.ones(dimensions), offset=-b)
        return self._items.probability(theta)
