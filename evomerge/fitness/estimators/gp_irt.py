"""gp-IRT: between p-IRT and the sample's mean."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from evomerge.fitness.estimators import Known, Sample
from evomerge.fitness.estimators.mp_irt import MPIRT
from evomerge.fitness.estimators.p_irt import PIRT


class GPIRT:
    """``m(i) = c mean_S y + (1 - c) p(i)``, with p the prediction of p-IRT.

        c = b^2 / (b^2 + v / n)

    b is the root mean square of what p-IRT misses of the mean of known models that it was not
    fitted to, from all their responses; v is the mean variance of a response.

    Paper: Polo et al., "tinyBenchmarks", https://arxiv.org/abs/2402.14992.
    Deviations: b is measured by two halves of the archive, each predicted from the other.
    """

    inner: type[PIRT] | type[MPIRT] = PIRT

    def __init__(self, known: Known) -> None:
        self._inner = self.inner(known)
        responses = known.responses
        self._variance = float(responses.var(1).mean()) if len(responses) else 0.0
        self._bias = 0.0
        everything = np.arange(responses.shape[1])
        if len(responses) > 3:
            halves = responses[::2], responses[1::2]
            missed = [
                self.inner(Known(this, known.strata)).predict(Sample(everything, other)).mean(1)
                - other.mean(1)
                for this, other in (halves, halves[::-1])
            ]
            self._bias = float(np.sqrt(np.mean(np.concatenate(missed) ** 2)))

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        guess = self._inner.predict(sample)
        count = len(sample.items)
        if not count or not self._variance:
            return guess
        share = self._bias**2 / (self._bias**2 + self._variance / count)
        guess += share * (sample.responses.mean(1, keepdims=True) - guess)
        return guess
