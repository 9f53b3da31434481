"""The composite form of a predictor: its plain estimate, corrected as far as that pays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evomerge.estimators import Estimate, JointEstimate, Known, Predictor, Sample
from evomerge.estimators.plain import Plain
from evomerge.estimators.unbiased import Unbiased

CAUTION = 2.0


class Composite:
    """``p + c (u - p)`` of the plain estimate p and the unbiased one u, ``c = b^2 / (b^2 + v)``.

    v is the variance of u and b^2 ``CAUTION`` times the mean square error of p, as measured on the
    archive from the same items: a search's candidates are less like its archive than the archive's
    models are like each other. Biased, less and less as the sample grows, but of the smallest error
    where u is noisy: what ranks the candidates of a generation best. The stated error is the bound
    ``c sqrt(v) + (1 - c) b``.

    Paper: Ghosh & Rao, "Small Area Estimation: An Appraisal", Statistical Science 1994
        (composite estimators).
    """

    def __init__(self, predictor: Callable[[Known], Predictor], known: Known) -> None:
        self._unbiased, self._plain = Unbiased(predictor, known), Plain(predictor, known)

    def estimate(self, sample: Sample) -> Estimate:
        many = self.estimate_many(sample.one)
        return Estimate(float(many.values[0]), float(many.errors[0]))

    def estimate_many(self, sample: Sample) -> JointEstimate:
        unbiased, predicted = self._unbiased.estimate_and_predict(sample)
        plain = self._plain.estimate_from(predicted, sample)
        own, model = np.diagonal(unbiased.covariance), CAUTION * np.diagonal(plain.covariance)
        share = model / np.maximum(own + model, 1e-30)
        values = plain.values + share * (unbiased.values - plain.values)
        bound = share * np.sqrt(own) + (1 - share) * np.sqrt(model)
        scale = bound / np.sqrt(np.maximum(own, 1e-30))
        return JointEstimate(values, unbiased.covariance * np.outer(scale, scale), unbiased.least)
