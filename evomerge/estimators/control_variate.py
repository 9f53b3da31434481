"""The archive's mean as a control variate."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from evomerge.estimators import Known, Sample


class ControlVariate:
    """``m(i) = b x(i)``, with x the mean response of the archive and ``b = Cov_S(y, x) / Var_S(x)``.

    In the unbiased form ``mean_S y - b (mean_S x - mean_P x)``, stratum by stratum.
    """

    def __init__(self, known: Known) -> None:
        responses = known.responses
        self._control = responses.mean(0) if len(responses) else np.zeros(responses.shape[1])

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        guess = np.tile(self._control, (len(sample.responses), 1))
        x = self._control[sample.items]
        if len(x) > 1 and np.ptp(x) > 0:
            centred = x - x.mean()
            slope = sample.responses @ centred / (centred @ centred)
            guess = slope[:, None] * (self._control - x.mean())
            guess += sample.responses.mean(1, keepdims=True)
        return guess
