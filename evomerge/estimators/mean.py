"""The mean of the sample."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from evomerge.estimators import Known, Sample


class Mean:
    """Predicts 0 everywhere, so that the unbiased form is the sample's mean; strata are ignored."""

    def __init__(self, known: Known) -> None:
        self._count = known.responses.shape[1]

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        return np.zeros((len(sample.responses), self._count))
