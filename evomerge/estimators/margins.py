"""Regression of margins, and from margins to right and wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from evomerge.estimators import Known, Sample, Together
from evomerge.estimators.logistic import sigmoid
from evomerge.estimators.regression import Regression

BEND = 2.0  # nats
AGREEMENT = 0.98
FEW = 4  # sampled margins that tell no spread


class Margins:
    """Predicts margins by regression; an item is right with the probability that its margin is positive.

        m(i) = Phi(z(i) / s),   z: the regression of arcsinh(margin / BEND)

    s is the residuals' standard deviation; for Phi the logistic function is taken, within 0.01. A margin
    says more than right or wrong, and margins of merges are close to linear in those of their
    parents. Items without margins, and responses that are not the margin's sign (``AGREEMENT`` of the
    archive's must be), are left to ``Regression``.
    """

    def __init__(self, known: Known) -> None:
        self._responses = Regression(known)
        self._has = np.zeros(known.responses.shape[1], bool)
        if known.margins is None or not len(known.margins):
            return
        has = np.isfinite(known.margins).all(0)
        margins, strata = known.margins[:, has], known.strata[has]
        self._position = np.cumsum(has) - 1  # among those with a margin
        if has.any() and np.mean(known.responses[:, has] == (margins > 0)) >= AGREEMENT:
            self._has = has
            self._margins = Regression(Known(bend(margins), strata))

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"]:
        if sample.margins is None:
            return self._responses.predict(sample)
        there = self._has[sample.items] & np.isfinite(sample.margins).all(0)
        with_margin = sample if there.all() else sample.take(there)
        assert with_margin.margins is not None
        if len(with_margin.items) < FEW:
            return self._responses.predict(sample)
        if self._has.all():  # nothing is left to the responses
            guess = np.empty((len(sample.responses), len(self._has)))
        else:
            guess = self._responses.predict(sample)
        items = self._position[with_margin.items]
        bent = bend(with_margin.margins)
        z = self._margins.predict(Sample(items, bent))
        spread = np.sqrt(np.mean((bent - z[:, items]) ** 2, 1, keepdims=True))
        guess[:, self._has] = sigmoid(1.702 * z / np.maximum(spread, 1e-9))
        return guess

    def predict_folds(
        self, sample: Sample, kept: Bool[np.ndarray, "folds sampled"]
    ) -> Float[np.ndarray, "folds candidates items"] | None:
        count, margins = kept.sum(1), sample.margins
        if margins is None:
            return self._responses.predict_folds(sample, kept)
        if not self._has.all() or not np.isfinite(margins).all() or count.min() < FEW:
            return None
        bent = bend(margins)
        z = self._margins.predict_folds(Sample(sample.items, bent), kept)
        off = (bent - z[:, :, sample.items]) ** 2 * kept[:, None]  # [folds, candidates, sampled]
        spread = np.sqrt(off.sum(2, keepdims=True) / count[:, None, None])
        return sigmoid(1.702 * z / np.maximum(spread, 1e-9))

    @staticmethod
    def together(parts: Sequence[Margins]) -> Together | None:
        """The same for predictors of as many archives, each of a candidate of its own, where all items have margins."""
        if not all(part._has.all() for part in parts):
            return None
        found = Regression.together([part._margins for part in parts])
        return None if found is None else _Together(found)


class _Together:
    """Regressions of margins on as many archives, each of a candidate of its own."""

    def __init__(self, margins: Together) -> None:
        self._margins = margins

    def predict(self, sample: Sample) -> Float[np.ndarray, "candidates items"] | None:
        if sample.margins is None or len(sample.items) < FEW:
            return None
        bent = bend(sample.margins)
        z = self._margins.predict(Sample(sample.items, bent))
        assert z is not None
        spread = np.sqrt(np.mean((bent - z[:, sample.items]) ** 2, 1, keepdims=True))
        return sigmoid(1.702 * z / np.maximum(spread, 1e-9))


def bend(margins: Float[np.ndarray, "models items"]) -> Float[np.ndarray, "models items"]:
    """Linear near 0, logarithmic far away: a hundred nats are not much surer than ten."""
    bent: Float[np.ndarray, "models items"] = np.arcsinh(margins / BEND)
    return bent
