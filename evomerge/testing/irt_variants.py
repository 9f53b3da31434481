"""Variants of item response theory, to compare estimators with: on no matrix did one beat ``p_irt``.

    python -m evomerge.testing.matrix MATRIX --estimators p_irt,gp_irt,mp_irt,gmp_irt

Papers: Polo et al., "tinyBenchmarks", https://arxiv.org/abs/2402.14992 (gp-IRT);
    Mencattini et al., "MERGE3", https://arxiv.org/abs/2502.10436 (mp-IRT, gmp-IRT).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from evomerge.estimators import Known, Predictor, Sample
from evomerge.estimators.irt import fit_items
from evomerge.estimators.logistic import regress
from evomerge.estimators.p_irt import PIRT

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


class GMPIRT(GPIRT):
    """``m(i) = c mean_S y + (1 - c) p(i)``, with p the prediction of mp-IRT and c as for gp-IRT.

    Paper: Mencattini et al., "MERGE3", https://arxiv.org/abs/2502.10436.
    Deviations: there c is 0.5 whatever the data.
    """

    inner = MPIRT


VARIANTS: dict[str, type[Predictor]] = {"gp_irt": GPIRT, "mp_irt": MPIRT, "gmp_irt": GMPIRT}
